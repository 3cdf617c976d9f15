"""ScanNet scenes as the official exporter writes them.

Layout after ScanNet/ScanNet `SensReader/python/{reader,SensorData}.py`: `<scene>/color/N.jpg`, `<scene>/depth/N.png` (16-bit, millimetres with
the set's depth shift of 1000, 0 unknown), `<scene>/pose/N.txt` (camera_to_world, -inf where tracking was lost) and
`<scene>/intrinsic/{intrinsic,extrinsic}_{color,depth}.txt` (4x4). Colour (1296x968) and depth (640x480) have their own intrinsics. The publisher says
that both are aligned and that no extrinsic matrix is to be applied (ScanNet/ScanNet issues 2 and 92), so depth is brought to the colour pixels by the
intrinsics alone. An exporter called with an image size leaves the intrinsics at the full size: that is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.images import natural_key, read_image
from perception.io.posed_frames import read_registered_depth
from perception_training.data.layouts.annotation_files import read_lines, read_matrix, rigid_poses
from perception_training.data.layouts.image_sizes import image_size
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

_MAX_OFF_CENTRE = 0.125
"""Largest distance of the principal point from the middle, as a share of the image's size; further off, the intrinsics are of another size."""


@dataclass(frozen=True, kw_only=True)
class ScanNetOptions(Checked):
    """Which scenes are read."""

    split_file: str = ""
    """File with one scene in each line, such as scannetv2_train.txt; absolute or below the data set's folder; all scenes when empty."""


class ScanNet(Dataset):
    """RGB-D walks through rooms (ScanNet export): registered depth, intrinsics, poses.

    Sequences `sceneSSSS_NN` in metres with depth registered to the colour pixels; a frame whose pose was lost has none.
    """

    name: ClassVar[str] = "scannet"
    Options: ClassVar[type[Checked]] = ScanNetOptions
    options: ScanNetOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if self.options.split_file:
            return tuple(sorted(read_lines(self.root / self.options.split_file)))
        if _is_scene(self.root):
            return (self.root.resolve().name,)
        return tuple(sorted(path.name for path in self.root.iterdir() if _is_scene(path)))

    def open_sequence(self, name: str) -> RecordedSequence:
        folder = self.root if _is_scene(self.root) else self.root / name
        if not _is_scene(folder):
            raise InputError(f"{folder}: no such folder, or without pose and color; must hold a scene as ScanNet's exporter writes it")
        return RecordedSequence(self.name, name, _records(folder))


def _is_scene(folder: Path) -> bool:
    return (folder / "color").is_dir() and (folder / "pose").is_dir()


def _records(folder: Path) -> tuple[FrameRecord, ...]:
    images, depths = ({path.stem: path for path in (folder / kind).glob(f"*{suffix}")} for kind, suffix in (("color", ".jpg"), ("depth", ".png")))
    stems = sorted({path.stem for path in (folder / "pose").glob("*.txt")} | set(images), key=lambda stem: natural_key(Path(stem)))
    if not images:
        raise InputError(f"{folder / 'color'}: holds no images of the form 0.jpg; must hold at least one")
    camera = _camera(folder / "intrinsic" / "intrinsic_color.txt", next(images[stem] for stem in stems if stem in images))
    depth_camera = _camera(folder / "intrinsic" / "intrinsic_depth.txt", next(iter(depths.values()))) if depths else None
    poses = _read_poses([folder / "pose" / f"{stem}.txt" for stem in stems])
    return tuple(
        FrameRecord(
            name=stem,
            source=folder / "color" / f"{stem}.jpg",
            read_image=partial(read_image, folder / "color" / f"{stem}.jpg"),
            camera=camera,
            world_from_camera=pose,
            read_depth=partial(read_registered_depth, folder / "depth" / f"{stem}.png", depth_camera, camera) if depth_camera is not None else None,
        )
        for stem, pose in zip(stems, poses, strict=True)
    )


def _camera(path: Path, image: Path) -> Camera:
    width, height = image_size(image)
    matrix = read_matrix(path, (4, 4))
    try:
        camera = Camera.from_matrix(matrix, width, height)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if abs(camera.cx / width - 0.5) > _MAX_OFF_CENTRE or abs(camera.cy / height - 0.5) > _MAX_OFF_CENTRE:
        raise InputError(
            f"{path}: principal point ({camera.cx:g}, {camera.cy:g}) is far from the middle of {image}, which is {width}x{height}: "
            "the intrinsics must be for the size of the images"
        )
    return camera


def _read_poses(paths: list[Path]) -> NDArray[np.float64]:
    """world_from_camera (N, 4, 4), NaN where tracking was lost."""
    matrices = np.stack([read_matrix(path, (4, 4)) for path in paths])
    matrices[np.isinf(matrices[:, :3]).all(axis=(1, 2))] = np.nan
    return rigid_poses(matrices, list(map(str, paths)))
