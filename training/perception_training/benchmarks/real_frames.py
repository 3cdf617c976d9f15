"""The real frames that `real_matching` looks at, none of which may be trained on: images, depth, cameras and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.images import list_images, natural_key, read_depth_image, read_image
from perception.io.posed_frames import PosedFrameFolder

ROOM, KITCHEN, RGBD_PAIR = "room", "redkitchen", "rgbd_pair"
GAPS = (10, 30, 60, 90)
_KITCHEN_STEP, _KITCHEN_FRAMES, _KITCHEN_PAIRS = 5, 150, 6
_MILLIMETRE = 0.001


@dataclass(frozen=True, eq=False)
class RealView:
    """image (height, width, 3), depth (height, width) metres along z, 0 unknown, camera and world_from_camera (4, 4)."""

    image: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    camera: Camera
    world_from_camera: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RealPairs:
    """A set of views, the ordered pairs (source, target) that are matched, and the distance in pixels below which a match is right.

    max_relative_depth_error: a point is seen where the depth of the second view agrees to this share; as exact as the depths are.
    """

    name: str
    views: Sequence[RealView]
    pairs: tuple[tuple[int, int], ...]
    threshold_px: float
    max_relative_depth_error: float = 0.03


def room(folder: Path) -> list[RealPairs]:
    """8 images with exact truth, all ordered pairs."""
    path = folder / "condition.npz"
    try:
        with np.load(path) as arrays:
            depths, intrinsics, poses = (arrays[name] for name in ("depths", "intrinsics", "poses"))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: must hold depths, intrinsics and poses ({error})") from error
    views = []
    for index, image_path in enumerate(list_images(folder / "rgb")):
        image = read_image(image_path)
        height, width = image.shape[:2]
        if index >= len(depths) or depths[index].shape != (height, width):
            raise InputError(f"{image_path} is {width}x{height}: {path} has no depth of this size for it")
        views.append(
            RealView(image, depths[index].astype(np.float32), Camera.from_matrix(intrinsics[index], width, height), poses[index].astype(np.float64))
        )
    return [RealPairs("room", views, _all_pairs(len(views)), 4.0, 0.01)]


def kitchen(folder: Path) -> list[RealPairs]:
    """Frames 0 to 149 of 7-Scenes redkitchen, every fifth, at gaps of 10, 30, 60 and 90 frames; colour focal length 525 px."""
    frames = PosedFrameFolder(folder)
    if len(frames) < _KITCHEN_FRAMES:
        raise InputError(f"{folder}: {len(frames)} frames; must be at least {_KITCHEN_FRAMES}")
    views = []
    for index in range(0, _KITCHEN_FRAMES, _KITCHEN_STEP):
        posed = frames[index]
        if posed.frame.depth_m is None:
            raise InputError(f"{folder}: frame {posed.name} has no depth")
        views.append(RealView(posed.frame.image, posed.frame.depth_m, frames.camera, posed.world_from_camera))
    return [RealPairs(f"kitchen, gap {gap}", views, _pairs_at(len(views), gap // _KITCHEN_STEP), 8.0) for gap in GAPS]


def rgbd_pair(folder: Path) -> list[RealPairs]:
    """5 RGB-D frames, all ordered pairs. pose.txt: position and quaternion (x y z w) of each camera in the world; intrinsics of the Xtion camera."""
    try:
        rows = np.loadtxt(folder / "pose.txt", ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'pose.txt'}: must hold seven numbers for each frame ({error})") from error
    images = list_images(folder / "color")
    depths = sorted((folder / "depth").glob("*.*"), key=natural_key)  # .pgm, which no camera of ours writes
    if not len(images) == len(depths) == len(rows) or rows.shape[1] != 7:
        raise InputError(
            f"{folder}: {len(images)} images, {len(depths)} depth images, poses of shape {rows.shape}: must be as many, seven numbers each"
        )
    views = []
    for image_path, depth_path, row in zip(images, depths, rows, strict=True):
        image = read_image(image_path)
        world_from_camera = np.eye(4)
        world_from_camera[:3, :3], world_from_camera[:3, 3] = Rotation.from_quat(row[3:]).as_matrix(), row[:3]
        camera = Camera(image.shape[1], image.shape[0], 518.0, 519.0, 325.5, 253.5)
        views.append(RealView(image, read_depth_image(depth_path).astype(np.float32) * np.float32(_MILLIMETRE), camera, world_from_camera))
    return [RealPairs("rgbd_pair", views, _all_pairs(len(views)), 8.0)]


READERS = {ROOM: room, KITCHEN: kitchen, RGBD_PAIR: rgbd_pair}
"""Folder below the root of the data → its sets of pairs."""


def _all_pairs(num: int) -> tuple[tuple[int, int], ...]:
    return tuple((source, target) for source in range(num) for target in range(num) if source != target)


def _pairs_at(num: int, gap: int) -> tuple[tuple[int, int], ...]:
    """About six pairs at this gap, evenly spaced, in both directions."""
    starts = range(0, num - gap, max(1, (num - gap) // _KITCHEN_PAIRS))
    return tuple((start, start + gap) for start in starts) + tuple((start + gap, start) for start in starts)
