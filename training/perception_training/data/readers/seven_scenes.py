"""7-Scenes: RGB-D sequences of seven rooms with KinectFusion poses, and any folder of frames in its layout.

Layout as on the data set's page (microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes, quoted in naver/kapture `kapture_import_7scenes.py`):
`<scene>/seq-XX/frame-NNNNNN.{color.png,depth.png,pose.txt}`, depth in mm with 65535 invalid (0 is taken as invalid too), poses camera-to-world;
`<scene>/TrainSplit.txt` and `TestSplit.txt` with "sequence1" in each line. The publisher gives 585/585/320/240 for the depth camera and says that
colour and depth are not calibrated; the colour camera's 525 px and the registration are those of `perception.io.posed_frames`.
A folder that holds frames itself is read as one sequence, with `camera-intrinsics.txt` where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io import posed_frames
from perception.io.images import IMAGE_SUFFIXES, natural_key, read_image
from perception_training.data.layouts.annotation_files import read_lines, read_matrix, rigid_poses
from perception_training.data.layouts.depth_images import read_foreground
from perception_training.data.layouts.image_sizes import image_size
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

_MAX_ROTATION_ERROR = 1e-2
"""The set's rotations are rounded more than others."""
SPLIT_FILES = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}


@dataclass(frozen=True, kw_only=True)
class SevenScenesOptions(Checked):
    """Which part of 7-Scenes is read, and its colour camera."""

    split: Literal["all", "train", "test"] = "all"
    """Sequences of the official split; all: every sequence that is on disk."""
    scenes: tuple[str, ...] = ()
    """Names of scenes; all when empty."""
    colour_focal_px: Annotated[float, Range(0.0, None, "px")] = 0.0
    """Focal length of the colour camera; 0: 525 for 640x480 images with the set's depth camera, else that of the depth camera."""


class SevenScenes(Dataset):
    """RGB-D clips of seven rooms (7-Scenes): registered depth and poses.

    Sequences `<scene>/seq-XX` in metres with depth registered to the colour pixels.
    """

    name: ClassVar[str] = "seven_scenes"
    Options: ClassVar[type[Checked]] = SevenScenesOptions
    options: SevenScenesOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if _holds_frames(self.root):
            return (self.root.resolve().name,)
        if _sequence_folders(self.root) or self._split_files(self.root):
            return self._sequences_of_scene(self.root)
        scenes = sorted(path.name for path in self.root.iterdir() if path.is_dir() and (_sequence_folders(path) or self._split_files(path)))
        unknown = sorted(set(self.options.scenes) - set(scenes))
        if unknown:
            raise InputError(f"{self.name} {self.root}: no scene {unknown[0]!r}; there are {', '.join(scenes)}")
        return tuple(f"{scene}/{name}" for scene in self.options.scenes or scenes for name in self._sequences_of_scene(self.root / scene))

    def _split_files(self, scene: Path) -> list[Path]:
        return [scene / name for name in SPLIT_FILES.values() if (scene / name).is_file()]

    def _sequences_of_scene(self, scene: Path) -> tuple[str, ...]:
        if self.options.split == "all":
            return tuple(path.name for path in _sequence_folders(scene))
        path = scene / SPLIT_FILES[self.options.split]
        names = []
        for line in read_lines(path):
            number = line.removeprefix("sequence").strip()
            if not number.isdigit():
                raise InputError(f"{path}: line {line!r}: must be of the form sequence1")
            names.append(f"seq-{int(number):02d}")
        return tuple(sorted(names))

    def open_sequence(self, name: str) -> RecordedSequence:
        folder = self.root if _holds_frames(self.root) else self.root / name
        return RecordedSequence(self.name, name, posed_records(folder, self.options.colour_focal_px))


def posed_records(folder: Path, colour_focal_px: float = 0.0) -> tuple[FrameRecord, ...]:
    """One record for each frame of which there is an image or a pose. Raises InputError that names the first file that is missing or damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; must hold frames of the form frame-000000.color.png")
    images = {path.name[: path.name.index(".color.")]: path for path in folder.glob("*.color.*") if path.suffix.lower() in IMAGE_SUFFIXES}
    if not images:
        raise InputError(f"{folder}: holds no frames; must hold frames of the form frame-000000.color.png")
    suffix = next(iter(images.values())).suffix
    names = sorted(
        {path.name.removesuffix(".pose.txt") for path in folder.glob("*.pose.txt")} | set(images), key=lambda name: natural_key(Path(name))
    )
    depth_camera = _depth_camera(folder, images[next(name for name in names if name in images)])
    camera = posed_frames.colour_camera(depth_camera, colour_focal_px)
    pose_files = [folder / f"{name}.pose.txt" for name in names]
    poses = rigid_poses(np.stack([read_matrix(path, (4, 4)) for path in pose_files]), list(map(str, pose_files)), _MAX_ROTATION_ERROR)
    files = [images.get(name, folder / f"{name}.color{suffix}") for name in names]
    return tuple(_record(folder, name, file, pose, depth_camera, camera) for name, file, pose in zip(names, files, poses, strict=True))


def _depth_camera(folder: Path, image: Path) -> Camera:
    width, height = image_size(image)
    default = posed_frames.SEVEN_SCENES_DEPTH_CAMERA
    if (folder / posed_frames.INTRINSICS_FILE).exists() or (width, height) != (default.width, default.height):
        return posed_frames.read_depth_camera(folder, width, height)
    return default


def _record(folder: Path, name: str, image: Path, pose: NDArray[np.float64], depth_camera: Camera, camera: Camera) -> FrameRecord:
    depth, mask = folder / f"{name}.depth.png", folder / f"{name}.mask.png"
    return FrameRecord(
        name=name,
        source=image,
        read_image=partial(read_image, image),
        camera=camera,
        world_from_camera=pose,
        read_depth=partial(posed_frames.read_registered_depth, depth, depth_camera, camera) if depth.exists() else None,
        read_mask=partial(read_foreground, mask, (camera.width, camera.height)) if mask.exists() else None,
    )


def _holds_frames(folder: Path) -> bool:
    return next(folder.glob("*.color.*"), None) is not None


def _sequence_folders(scene: Path) -> list[Path]:
    return sorted(path for path in scene.glob("seq-*") if path.is_dir())
