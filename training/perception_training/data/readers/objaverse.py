"""Objaverse renders in the layout of MEF (You et al., ICLR 2025), and what `perception-train render MESH...` writes: views around single objects.

Files, units and axes are described in `layouts/objaverse_renders.py`. The world of a sequence is the object's normalised frame (longest side 1).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.images import read_image
from perception_training.data.layouts.annotation_files import read_lines
from perception_training.data.layouts.depth_images import read_foreground
from perception_training.data.layouts.objaverse_renders import (
    PARTIAL_SUFFIX,
    POSES_FILE,
    is_view_file,
    read_depth,
    read_poses,
    read_settings,
    view_files,
)
from perception_training.data.sample import ObjectTrack
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence


@dataclass(frozen=True, kw_only=True)
class ObjaverseOptions(Checked):
    """Which objects are read, and where their poses are."""

    poses: str = ""
    """File of the poses; empty: obj_poses.npy in the data set's folder or the one above, where MEF has it."""
    names: str = ""
    """File that lists the objects to read, one in each line, such as MEF's 10k.txt; empty: all."""


class Objaverse(Dataset):
    """Renders of objects in the layout of MEF: 42 views with depth, mask and pose.

    Sequences are objects; frames are their views, with depth, mask, intrinsics and pose.
    """

    name: ClassVar[str] = "objaverse"
    Options: ClassVar[type[Checked]] = ObjaverseOptions
    options: ObjaverseOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if self.options.names:
            return tuple(sorted(read_lines(Path(self.options.names))))
        return tuple(sorted(_object_folders(self.root)))

    @cached_property
    def _camera_from_object(self) -> NDArray[np.float64]:
        if self.options.poses:
            return read_poses(Path(self.options.poses))
        places = [self.root / POSES_FILE, self.root.absolute().parent / POSES_FILE]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise InputError(
                f"{places[0]}: no such file, nor {places[1]}; the poses of the views must be in one of them or named by the option poses"
            )
        return read_poses(found)

    @cached_property
    def _camera(self) -> Camera:
        return read_settings(self.root)[0]

    def open_sequence(self, name: str) -> RecordedSequence:
        folder, poses, camera = self.root / name, self._camera_from_object, self._camera
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of an object")
        if not any(is_view_file(entry) for entry in os.listdir(folder)):
            raise InputError(f"{folder}: holds no views; must hold {view_files(folder, 0).color.name} and so on")
        world_from_camera = np.linalg.inv(poses)
        records = tuple(_record(folder, index, camera, world_from_camera[index]) for index in range(len(poses)))
        return RecordedSequence(self.name, name, records, (ObjectTrack(name, poses, mask_id=1),), unit="arbitrary")


def _object_folders(root: Path) -> list[str]:
    """Names of the folders with views, right below the root or one level farther down."""
    names = []
    for group in _folders(root):
        with os.scandir(root / group) as entries:
            is_object = any(is_view_file(entry.name) for entry in entries)
        names += [group] if is_object else [f"{group}/{name}" for name in _folders(root / group)]
    return names


def _folders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.endswith(PARTIAL_SUFFIX)]


def _record(folder: Path, index: int, camera: Camera, world_from_camera: NDArray[np.float64]) -> FrameRecord:
    files, size = view_files(folder, index), (camera.width, camera.height)
    return FrameRecord(
        name=f"{index:06d}",
        source=files.color,
        read_image=partial(read_image, files.color),
        camera=camera,
        world_from_camera=world_from_camera,
        read_depth=partial(read_depth, files.depth, size),
        read_mask=partial(read_foreground, files.mask, size),
    )
