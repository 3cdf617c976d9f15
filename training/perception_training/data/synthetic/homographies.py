"""Pairs of views of a picture that hangs in space: homographies with exact depth and poses, drawn when they are asked for.

The picture, a collage of its own or one of the photographs, lies in the plane z = 0 of the world. Because depth, intrinsics and poses are known as
for any other views, correspondences are found in the same way. What lies beyond the picture shows it mirrored and has no depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset, FrameSequence
from perception_training.data.synthetic.collages import collage
from perception_training.data.synthetic.scenes.textures import photographs

_PX_PER_M = 500.0
"""Pixels of a photograph for each metre."""
_SHORTER_SIDE_PX = 512
_FRAMES = ("0000", "0001")


@dataclass(frozen=True, kw_only=True)
class HomographiesConfig(Checked):
    """What the pairs are drawn from; each view is drawn on its own. Pairs are the ends of ranges."""

    height: Annotated[int, Range(8, 4096, "px")] = 240
    """Height of the images."""
    width: Annotated[int, Range(8, 4096, "px")] = 320
    """Width of the images."""
    num_pairs: Annotated[int, Range(1, 10_000_000)] = 10_000
    """Pairs that are listed; any other seed can be opened by its name."""
    first_seed: Annotated[int, Range(0, 2**60)] = 0
    """Seed of the first pair; the others follow."""
    scale: Annotated[tuple[float, float], Range(0.05, 10.0)] = (0.45, 1.6)
    """Pixels of a photograph whose shorter side is 512 px, for each pixel of an image at its middle; larger ones are scaled down to that. Drawn
    evenly in its logarithm."""
    max_tilt_deg: Annotated[float, Range(0.0, 80.0, "deg")] = 50.0
    """Largest angle between the optical axis and the photograph's normal."""
    max_roll_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 25.0
    """Largest roll of the camera."""
    focal: Annotated[tuple[float, float], Range(0.1, 20.0)] = (0.75, 1.7)
    """Focal length as a share of the width."""
    shift: Annotated[float, Range(0.0, 2.0)] = 0.2
    """Largest distance of what the two views look at along either axis, as a share of the photograph's shorter side."""
    share_photographs: Annotated[float, Range(0.0, 1.0)] = 0.2
    """Pairs that show a photograph; the others show a collage, of which there are as many as pairs, so that none can be learnt by heart."""
    texture_folder: str = ""
    """Folder of photographs to be used besides those that scikit-image ships."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale", "focal"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"HomographiesConfig.{name} = {[low, high]}: the first must not exceed the second")


@dataclass(eq=False)
class HomographyPair(FrameSequence):
    """The two views of one seed. Picklable: it is only settings and a seed."""

    config: HomographiesConfig
    seed: int

    def __post_init__(self) -> None:
        self.dataset, self.name = Homographies.name, f"{self.seed:08d}"

    @property
    def frame_names(self) -> tuple[str, ...]:
        return _FRAMES

    @property
    def world_from_camera(self) -> NDArray[np.float64]:
        return np.stack([pose for _, pose in self._views()[1]])

    def _views(self) -> tuple[NDArray[np.uint8], list[tuple[Camera, NDArray[np.float64]]]]:
        """The picture, and camera with world_from_camera of both views."""
        rng = np.random.default_rng(self.seed)
        if rng.random() < self.config.share_photographs:
            pictures = photographs(self.config.texture_folder or None)
            picture = pictures[int(rng.integers(len(pictures)))]
        else:
            picture = collage(rng, _SHORTER_SIDE_PX)
        size = np.array([picture.shape[1], picture.shape[0]])
        middle = size * rng.uniform(0.3, 0.7, 2)
        reach = self.config.shift * min(size)
        zoom = max(1.0, min(size) / _SHORTER_SIDE_PX)
        return picture, [_draw_view(self.config, (middle + rng.uniform(-reach, reach, 2) / 2) / _PX_PER_M, zoom, rng) for _ in _FRAMES]

    def load(self, frames: Sequence[int]) -> Sample:
        wrong = [frame for frame in frames if frame not in (0, 1)]
        if wrong or not len(frames):
            found = f"frame {wrong[0]}" if wrong else "no frame"
            raise InputError(f"{self.dataset}/{self.name}: {found} was asked for; must be 0 or 1, at least one")
        picture, views = self._views()
        shown = [_show(picture, *views[frame]) for frame in frames]
        return Sample(
            dataset=self.dataset,
            sequence=self.name,
            frame_names=tuple(_FRAMES[frame] for frame in frames),
            images=tuple(image for image, _ in shown),
            cameras=tuple(views[frame][0] for frame in frames),
            world_from_camera=np.stack([views[frame][1] for frame in frames]),
            depth_m=tuple(depth for _, depth in shown),
        )


class Homographies(Dataset):
    """Pairs of views of pictures; sequence i has seed `first_seed` + i, and its name is the seed."""

    name = "homographies"

    def __init__(self, config: HomographiesConfig | None = None) -> None:
        self.config = config if config is not None else HomographiesConfig()
        super().__init__(self.config.texture_folder or Path(skimage.__file__).parent / "data")

    def _list_sequences(self) -> tuple[str, ...]:
        first = self.config.first_seed
        return tuple(f"{seed:08d}" for seed in range(first, first + self.config.num_pairs))

    def open_sequence(self, name: str) -> HomographyPair:
        if not name.isdecimal():
            raise InputError(f"{self.name}: sequence {name!r}: must be a seed, such as {0:08d}")
        return HomographyPair(self.config, int(name))


def _draw_view(config: HomographiesConfig, target: NDArray[np.float64], zoom: float, rng: np.random.Generator) -> tuple[Camera, NDArray[np.float64]]:
    """A camera that looks at `target` (2,) in the plane, its image upright but for its roll."""
    focal = rng.uniform(*config.focal) * config.width
    scale = zoom * math.exp(rng.uniform(*np.log(config.scale)))
    tilt, roll = np.deg2rad([rng.uniform(0, config.max_tilt_deg), rng.uniform(-config.max_roll_deg, config.max_roll_deg)])
    about = rng.uniform(0, 2 * math.pi)
    axes = cv2.Rodrigues(tilt * np.array([math.cos(about), math.sin(about), 0]))[0] @ cv2.Rodrigues(np.array([0, 0, roll]))[0]
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = axes
    world_from_camera[:3, 3] = np.array([*target, 0]) - axes[:, 2] * (focal * scale / _PX_PER_M)
    return Camera(config.width, config.height, focal, focal, (config.width - 1) / 2, (config.height - 1) / 2), world_from_camera


def _show(picture: NDArray[np.uint8], camera: Camera, world_from_camera: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Image and depth of one view."""
    camera_from_world = se3.inverse(world_from_camera)
    image_from_plane = camera.matrix @ camera_from_world[:3, [0, 1, 3]]
    plane_from_picture = np.diag([1 / _PX_PER_M, 1 / _PX_PER_M, 1.0])
    shrink = _middle_shrink(camera, world_from_camera)
    height, width = picture.shape[:2]
    if shrink > 1.1:  # so that the bilinear step below does not alias
        smaller = max(1, round(width / shrink)), max(1, round(height / shrink))
        ratio = np.array([width, height]) / smaller
        picture = np.asarray(cv2.resize(picture, smaller, interpolation=cv2.INTER_AREA), np.uint8)
        plane_from_picture = plane_from_picture @ np.array([[ratio[0], 0, (ratio[0] - 1) / 2], [0, ratio[1], (ratio[1] - 1) / 2], [0, 0, 1]])
    size = (camera.width, camera.height)
    image = cv2.warpPerspective(picture, image_from_plane @ plane_from_picture, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(image, np.uint8), _depth((width, height), camera, world_from_camera)


def _middle_shrink(camera: Camera, world_from_camera: NDArray[np.float64]) -> float:
    """Pixels of the photograph for each pixel at the middle of the image, along the direction that is not tilted."""
    distance = -world_from_camera[2, 3] / world_from_camera[2, 2]
    return float(distance * _PX_PER_M / camera.fx)


def _depth(size: tuple[int, int], camera: Camera, world_from_camera: NDArray[np.float64]) -> NDArray[np.float32]:
    """(height, width) depth of the plane z = 0, 0 beyond the photograph of `size` (width, height)."""
    x = (np.arange(camera.width) - camera.cx) / camera.fx
    y = ((np.arange(camera.height) - camera.cy) / camera.fy)[:, None]
    axes, centre = world_from_camera[:3, :3], world_from_camera[:3, 3]
    with np.errstate(divide="ignore"):
        depth = -centre[2] / (axes[2, 0] * x + axes[2, 1] * y + axes[2, 2])
    inside = (depth > 0) & np.isfinite(depth)
    depth = np.where(inside, depth, 0.0)
    for axis in (0, 1):
        place = (centre[axis] + depth * (axes[axis, 0] * x + axes[axis, 1] * y + axes[axis, 2])) * _PX_PER_M
        inside &= (place >= 0) & (place <= size[axis] - 1)
    return np.where(inside, depth, 0.0).astype(np.float32)
