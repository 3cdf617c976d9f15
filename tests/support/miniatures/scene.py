"""The scene that all miniatures show, and the comparison of what a reader returns with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tests.support.textured_plane import random_texture

from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.camera import depth_to_points, project, unproject
from perception.rendering.primitives import box, sphere
from perception.rendering.raycast import MeshScene, render
from perception.rendering.viewpoints import look_at
from perception_training.data.sample import Sample

OBJECT_NAMES = ("floor", "box", "ball")
"""Instance id in the masks = index in this list; the background is 0 only where nothing is seen, so the floor counts as 0 too."""

BOX_SIZE_M = (0.4, 0.3, 0.25)
WORLD_FROM_BOX = se3.exp(np.array([0.1, -0.15, 0.125, 0.0, 0.0, 0.5]))
WORLD_FROM_BALL = se3.exp(np.array([-0.3, 0.2, 0.15, 0.0, 0.0, 0.0]))


@dataclass(frozen=True, eq=False)
class MiniatureScene:
    """Truth about T frames of a static scene in metres: a floor (z = 0), a box and a ball, all textured, seen from an arc.

    images T x (height, width, 3) · depth_m, masks (1 box, 2 ball, else 0), normals likewise · cameras · world_from_camera (T, 4, 4) ·
    points_world (N, 3) surface points picked on a grid of frame 0 · points_px (T, N, 2) · visible (T, N) · box_mesh_vertices in its own frame.
    """

    images: tuple[NDArray[np.uint8], ...]
    depth_m: tuple[NDArray[np.float32], ...]
    masks: tuple[NDArray[np.int32], ...]
    normals: tuple[NDArray[np.float32], ...]
    cameras: tuple[Camera, ...]
    world_from_camera: NDArray[np.float64]
    points_world: NDArray[np.float64]
    points_px: NDArray[np.float64]
    visible: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.images)

    def camera_from_object(self, name: str) -> NDArray[np.float64]:
        """(T, 4, 4) pose of the box or the ball in each camera."""
        world_from_object = {"box": WORLD_FROM_BOX, "ball": WORLD_FROM_BALL}[name]
        return np.linalg.inv(self.world_from_camera) @ world_from_object


@lru_cache(maxsize=4)
def meshes() -> MeshScene:
    """Floor, box and ball, placed in the world."""
    textures = [random_texture(seed, 256) for seed in range(8)]
    floor = box((4.0, 4.0, 0.02), [textures[0]] * 6)
    below = se3.exp(np.array([0.0, 0.0, -0.01, 0.0, 0.0, 0.0]))
    return MeshScene(
        {
            "floor": (floor, below),
            "box": (box(BOX_SIZE_M, textures[1:7]), WORLD_FROM_BOX),
            "ball": (sphere(0.15, textures[7]), WORLD_FROM_BALL),
        }
    )


@lru_cache(maxsize=4)
def miniature_scene(num_frames: int = 4, width: int = 160, height: int = 120) -> MiniatureScene:
    """Render the scene; the same arguments give the same scene (cached, do not write into it)."""
    camera = Camera(width, height, 0.9 * width, 0.92 * width, width / 2 - 2.3, height / 2 + 1.7)
    angles = np.linspace(-0.5, 0.5, num_frames)
    poses = [look_at(np.array([1.3 * np.sin(a), -1.3 * np.cos(a), 0.8 + 0.1 * a]), np.array([0.02, 0.0, 0.1])) for a in angles]
    views = [render(meshes(), camera, pose) for pose in poses]
    world_from_camera = np.linalg.inv(np.stack(poses))
    picked = depth_to_points(views[0].depth_m, camera)[height // 8 :: height // 6, width // 8 :: width // 6].reshape(-1, 3).astype(np.float64)
    points_world = se3.transform_points(world_from_camera[0], picked[np.isfinite(picked).all(1)])
    points_camera = np.stack([se3.transform_points(pose, points_world) for pose in poses])
    points_px = np.stack([project(points, camera) for points in points_camera])
    visible = np.stack([_visible(px, points[:, 2], view.depth_m) for px, points, view in zip(points_px, points_camera, views, strict=True)])
    return MiniatureScene(
        images=tuple(view.image for view in views),
        depth_m=tuple(view.depth_m for view in views),
        masks=tuple(np.maximum(view.instance_ids, 0).astype(np.int32) for view in views),
        normals=tuple(view.normals for view in views),
        cameras=(camera,) * num_frames,
        world_from_camera=world_from_camera,
        points_world=points_world,
        points_px=points_px,
        visible=visible,
    )


def seen_by(scene: MiniatureScene, camera: Camera) -> MiniatureScene:
    """The same scene from the same poses through another camera, for sets whose intrinsics are fixed; its track points are those of the first."""
    views = [render(meshes(), camera, pose) for pose in np.linalg.inv(scene.world_from_camera)]
    points_camera = [se3.transform_points(pose, scene.points_world) for pose in np.linalg.inv(scene.world_from_camera)]
    points_px = np.stack([project(points, camera) for points in points_camera])
    return MiniatureScene(
        images=tuple(view.image for view in views),
        depth_m=tuple(view.depth_m for view in views),
        masks=tuple(np.maximum(view.instance_ids, 0).astype(np.int32) for view in views),
        normals=tuple(view.normals for view in views),
        cameras=(camera,) * len(scene),
        world_from_camera=scene.world_from_camera,
        points_world=scene.points_world,
        points_px=points_px,
        visible=np.stack([_visible(px, points[:, 2], view.depth_m) for px, points, view in zip(points_px, points_camera, views, strict=True)]),
    )


def _visible(points_px: NDArray, depth: NDArray, depth_m: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Inside the image and not behind what is seen there (2 cm of slack, since the depth belongs to the next pixel centre)."""
    nearest = np.rint(points_px).astype(int)
    inside = ((nearest >= 0) & (nearest < (depth_m.shape[1], depth_m.shape[0]))).all(1)
    col, row = np.where(inside[:, None], nearest, 0).T
    return inside & (np.abs(depth - depth_m[row, col]) < 0.02)


def assert_jpegs_of(images: tuple[NDArray[np.uint8], ...], truth: tuple[NDArray[np.uint8], ...]) -> None:
    """Each image is what JPEG leaves of its truth: sizes equal, and off by less than 10 grey levels in the mean (another frame is off by 40)."""
    for image, true_image in zip(images, truth, strict=True):
        error = np.abs(image.astype(int) - true_image).mean()
        assert error < 10, f"image is off by {error:.1f} grey levels in the mean"


def reprojection_error_px(sample: Sample, scene: MiniatureScene, frames: tuple[int, ...], units_per_metre: float = 1.0) -> float:
    """Largest distance in pixels, over all pairs of frames, between where the sample's cameras and poses send the truth's surface points of one
    frame into another and where they really are; the two may differ by the choice of the world.

    frames: which frames of the scene the sample's are · units_per_metre of the sample. Where the sample has depth, points are lifted with it
    (at the nearest pixel), so that depth is judged too; its images may be scaled versions of the scene's, not crops.
    """
    assert sample.cameras is not None
    assert sample.world_from_camera is not None
    worst = 0.0
    for a, frame_a in enumerate(frames):
        for b, frame_b in enumerate(frames):
            if a != b:
                worst = max(worst, _pair_error_px(sample, scene, (a, b), (frame_a, frame_b), units_per_metre))
    return worst


def _pair_error_px(sample: Sample, scene: MiniatureScene, pair: tuple[int, int], frames: tuple[int, int], units_per_metre: float) -> float:
    assert sample.cameras is not None
    assert sample.world_from_camera is not None
    camera_a, camera_b = sample.cameras[pair[0]], sample.cameras[pair[1]]
    assert camera_a is not None
    assert camera_b is not None
    size = (camera_a.width, camera_a.height)
    x, y = np.meshgrid(np.linspace(0.1, 0.9, 9) * size[0], np.linspace(0.1, 0.9, 7) * size[1])
    pixels = np.rint(np.stack([x, y], -1).reshape(-1, 2))
    truth_a = scene.cameras[frames[0]].resized(*size)
    truth_b = scene.cameras[frames[1]].resized(camera_b.width, camera_b.height)
    true_points = _surface(scene, frames[0], truth_a, pixels)
    keep = np.isfinite(true_points).all(1)
    if sample.depth_m is not None:
        depth = sample.depth_m[pair[0]][pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
        points = np.where(depth[:, None] > 0, _lift(pixels, depth, camera_a), np.nan)
        keep &= np.isfinite(points).all(1)
    else:
        points = _lift(pixels, true_points[:, 2] * units_per_metre, camera_a)
    assert keep.sum() >= 8, "too few pixels with known depth to judge"
    true_b_from_a = np.linalg.inv(scene.world_from_camera[frames[1]]) @ scene.world_from_camera[frames[0]]
    b_from_a = np.linalg.inv(sample.world_from_camera[pair[1]]) @ sample.world_from_camera[pair[0]]
    expected = project(se3.transform_points(true_b_from_a, true_points[keep]), truth_b)
    found = project(se3.transform_points(b_from_a, points[keep]), camera_b)
    return float(np.linalg.norm(found - expected, axis=1).max())


def _lift(pixels: NDArray, depth: NDArray, camera: Camera) -> NDArray:
    return unproject(pixels, depth.astype(np.float64), camera)


def _surface(scene: MiniatureScene, frame: int, camera: Camera, pixels: NDArray) -> NDArray:
    """Exact points in camera axes at pixels of the (scaled) camera, by casting the rays anew; NaN where they hit nothing."""
    view = render(meshes(), camera, np.linalg.inv(scene.world_from_camera[frame]))
    depth = view.depth_m[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    return _lift(pixels, np.where(depth > 0, depth, np.nan), camera)


def depth_error_px(sample: Sample, scene: MiniatureScene, frames: tuple[int, ...]) -> float:
    """Where depth was registered from another camera: 95th percentile, over all pixels of all frames, of the distance in pixels between where the
    sample's depth and the true depth send a pixel in the next frame. The rest are pixels at edges, which two cameras see differently.
    """
    distances = []
    for row, frame in enumerate(frames):
        other = frames[(row + 1) % len(frames)]
        other_from_frame = np.linalg.inv(scene.world_from_camera[other]) @ scene.world_from_camera[frame]
        assert sample.depth_m is not None
        found, expected = (
            project(se3.transform_points(other_from_frame, depth_to_points(depth.astype(np.float64), scene.cameras[frame])), scene.cameras[other])
            for depth in (sample.depth_m[row], scene.depth_m[frame])
        )
        distance = np.linalg.norm(found - expected, axis=-1)
        known = np.isfinite(distance)
        assert known.sum() > 0.75 * (scene.depth_m[frame] > 0).sum(), "too few pixels with known depth to judge"
        distances.append(distance[known])
    return float(np.quantile(np.concatenate(distances), 0.95))
