"""A frame as a camera that looks straight at an object would have seen it, turned and with a longer lens.

Dense descriptors bear turns of some 20 degrees and scales of some 1.5. An object that lies on its side, or is much smaller than in its reference
views, is found by looking again with a camera that is turned and zoomed towards it. Both are a motion and intrinsics of a camera in the same place,
so nothing is approximate but the resampling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera, Frame
from perception.geometry import so3
from perception.geometry.camera import project, unproject
from perception.geometry.se3 import from_rotation_translation

_LARGEST_REDUCTION = 1.5
"""Bilinear sampling skips pixels above this; the frame is scaled down before."""


@dataclass(frozen=True, eq=False)
class ZoomedView:
    """frame: what the zoomed camera sees, masked where the old picture has no pixels · camera: of the old picture · zoomed_from_camera (4, 4)."""

    frame: Frame
    camera: Camera
    zoomed_from_camera: NDArray[np.float64]

    def points_px(self, zoomed_px: NDArray) -> NDArray[np.float64]:
        """Pixels (num, 2) of the zoomed picture in the old one."""
        return _in_old_picture(np.asarray(zoomed_px, np.float64), self._zoomed_camera, self.zoomed_from_camera, self.camera)

    @property
    def _zoomed_camera(self) -> Camera:
        assert self.frame.camera is not None
        return self.frame.camera


def zoomed_view(frame: Frame, centre_px: NDArray, roll_rad: float, focal_px: float, size_px: tuple[int, int]) -> ZoomedView:
    """The frame seen by a pinhole camera whose axis goes through `centre_px` (x, y), then turned clockwise by `roll_rad`.

    size_px: width and height of its picture. The frame needs a camera; its lens distortion is undone.
    """
    camera = frame.camera
    assert camera is not None, "a zoomed view needs a camera"
    rotation = turned_about_axis(roll_rad) @ axis_towards(ray_of(centre_px, camera))
    zoomed_from_camera = from_rotation_translation(rotation, np.zeros(3))
    width, height = size_px
    zoomed = Camera(width, height, focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)
    image, reduction = frame.image, camera.fx / focal_px
    if reduction > _LARGEST_REDUCTION:
        small = max(1, round(image.shape[1] / reduction)), max(1, round(image.shape[0] / reduction))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    cols, rows = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    pixels = np.stack([cols.ravel(), rows.ravel()], axis=1)
    seen_in = camera.resized(image.shape[1], image.shape[0])
    where = _in_old_picture(pixels, zoomed, zoomed_from_camera, seen_in).astype(np.float32).reshape(height, width, 2)
    map_x, map_y = (np.ascontiguousarray(where[..., axis]) for axis in range(2))
    seen = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    known = (where >= -0.5).all(axis=2) & (where[..., 0] <= image.shape[1] - 0.5) & (where[..., 1] <= image.shape[0] - 0.5)
    if frame.mask is not None:
        mask = cv2.resize(frame.mask.astype(np.uint8), (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
        known &= cv2.remap(mask, map_x, map_y, cv2.INTER_NEAREST) > 0
    return ZoomedView(replace(frame, image=seen, camera=zoomed, mask=known, depth_m=None), camera, zoomed_from_camera)


def ray_of(pixel: NDArray, camera: Camera) -> NDArray[np.float64]:
    """Unit vector (3,) in camera axes that is seen at a pixel (x, y)."""
    ray = np.asarray(unproject(np.asarray(pixel, np.float64)[None], np.ones(1), camera))[0]
    return np.asarray(ray / np.linalg.norm(ray), np.float64)


def axis_towards(rays: NDArray) -> NDArray[np.float64]:
    """The smallest rotations (..., 3, 3) that take unit vectors (..., 3) in front of the camera to the optical axis."""
    x, y, z = np.moveaxis(np.asarray(rays, np.float64), -1, 0)
    share = 1 / (1 + np.maximum(z, -0.99))
    rows = [[1 - share * x * x, -share * x * y, -x], [-share * x * y, 1 - share * y * y, -y], [x, y, z]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def turned_about_axis(angles_rad: NDArray | float) -> NDArray[np.float64]:
    """Rotations (..., 3, 3) about the optical axis that turn what is seen clockwise in the picture by angles (...)."""
    return np.asarray(so3.exp(np.asarray(angles_rad, np.float64)[..., None] * np.array([0.0, 0.0, 1.0])))


def _in_old_picture(zoomed_px: NDArray, zoomed: Camera, zoomed_from_camera: NDArray, camera: Camera) -> NDArray[np.float64]:
    """Pixels (num, 2); those behind the old camera lie outside of its picture."""
    rays = np.asarray(unproject(zoomed_px, np.ones(len(zoomed_px)), zoomed)) @ zoomed_from_camera[:3, :3]
    behind = rays[:, 2] <= 1e-6
    rays[behind] = [0.0, 0.0, 1.0]
    pixels = np.asarray(project(rays, camera), np.float64)
    pixels[behind | ~np.isfinite(pixels).all(axis=1)] = -1e6
    return pixels
