"""A textured square seen by a pinhole camera: image, depth and mask by one homography, exact and fast."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera, Frame, ReferenceView

CAMERA = Camera(320, 240, 300.0, 300.0, 159.5, 119.5)
SIDE_M = 0.4


def random_texture(seed: int, size: int = 512) -> NDArray[np.uint8]:
    """Noise at several scales with hard-edged rectangles, so that every place looks different."""
    rng = np.random.default_rng(seed)
    texture = sum(cv2.resize(rng.uniform(0, 255 / 3, (n, n, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC) for n in (8, 32, 96))
    texture = np.clip(texture, 0, 255).astype(np.uint8)
    for _ in range(60):
        x, y, w, h = rng.integers(0, size), rng.integers(0, size), rng.integers(8, 60), rng.integers(8, 60)
        cv2.rectangle(texture, (int(x), int(y)), (int(x + w), int(y + h)), rng.integers(0, 255, 3).tolist(), -1)
    return texture


def view_pose(azimuth_deg: float, elevation_deg: float, distance_m: float, roll_deg: float = 0.0) -> NDArray[np.float64]:
    """camera_from_object (4, 4) of a camera that looks at the origin of a plane whose normal is -z; (0, 0) is straight on."""
    a, e, r = np.radians([azimuth_deg, elevation_deg, roll_deg])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3] = about_z @ about_x @ about_y
    pose[:3, 3] = [0, 0, distance_m]
    return pose


def render_plane(texture: NDArray[np.uint8], camera_from_object: NDArray[np.float64], camera: Camera = CAMERA, background_seed: int = 50) -> Frame:
    """Frame with depth and mask of the square [-SIDE/2, SIDE/2]^2 in the plane z = 0 of the object frame, before a textured background."""
    size = texture.shape[0]
    object_from_texture = np.array([[SIDE_M / size, 0, -SIDE_M / 2], [0, SIDE_M / size, -SIDE_M / 2], [0, 0, 1]])
    plane = camera.matrix @ camera_from_object[:3][:, [0, 1, 3]]
    homography = plane @ object_from_texture
    shape = (camera.width, camera.height)
    image = cv2.warpPerspective(texture, homography, shape, flags=cv2.INTER_AREA)
    mask = cv2.warpPerspective(np.ones((size, size), np.uint8), homography, shape, flags=cv2.INTER_NEAREST) > 0
    image[~mask] = cv2.resize(random_texture(background_seed), shape)[~mask]
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    normal = camera_from_object[:3, 2]
    depth = (normal @ camera_from_object[:3, 3]) / (rays @ normal)
    return Frame(image, 1, camera, "camera", depth_m=np.where(mask, depth, 0).astype(np.float32), mask=mask)


def reference_views(texture: NDArray[np.uint8], poses: list[NDArray[np.float64]], with_depth: bool = True) -> list[ReferenceView]:
    """Reference views of the square with times 1, 2, 3 ... seconds."""
    views = []
    for index, pose in enumerate(poses):
        frame = render_plane(texture, pose)
        frame = Frame(frame.image, (index + 1) * 10**9, frame.camera, "camera", depth_m=frame.depth_m if with_depth else None, mask=frame.mask)
        views.append(ReferenceView(frame, pose))
    return views
