"""DL3DV-10K: scenes filmed by hand or drone, with poses by COLMAP in nerfstudio's format.

Layout after DL3DV-10K/Dataset `README.md` and `scripts/download.py`, and nerfstudio's "Data conventions": `transforms.json` with size, focal lengths,
principal point (from the image's corner: pixel centres at 0.5) and OPENCV distortion k1 k2 p1 p2 for the full resolution, and frames with `file_path`
below `images/` and `transform_matrix` world_from_camera with OpenGL's camera axes (y up, z backwards). The 4K, 2K, 960P and 480P copies hold
`images`, `images_2`, `images_4` and `images_8`; the benchmark has the same below `<scene>/nerfstudio`. Scenes are found wherever their
transforms.json or their images lie (`<batch>/<hash>` after download.py), because where the archives unpack to could not be seen here.
`applied_transform` only chooses the world, so it is left alone. The unit is arbitrary.

3DPoV (Ioana-Simion/3DPoV `exp_3dpov_multigpu.py`) trains on this set twice, with `images_4` resized to a square regardless of its shape and with
the square in the middle cut out unscaled: variants `resize` and `centre_crop`, 224 px.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.images import read_image
from perception_training.data.layouts.annotation_files import rigid_poses
from perception_training.data.layouts.depth_images import check_size
from perception_training.data.layouts.image_sizes import camera_of_images
from perception_training.data.layouts.json_entries import entry, numbers, read_object
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

POSE_FILE = "transforms.json"
PIXEL_CENTRE = 0.5
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_CAMERA_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")
_MAX_DEPTH_OF_FOLDERS = 4
_NEVER_SCENES = ("images", "gaussian_splat", "colmap", ".")
"""Beginnings of names of folders that are not looked into for scenes."""


@dataclass(frozen=True, kw_only=True)
class Dl3dvOptions(Checked):
    """Which images of DL3DV are read, and how they are brought to one size."""

    image_folder: str = "images_4"
    """Folder of the images in each scene: images (4K), images_2 (2K), images_4 (960P) or images_8 (480P)."""
    variant: Literal["full", "resize", "centre_crop"] = "full"
    """full: as they are; resize: to a square regardless of their shape; centre_crop: the square in their middle, unscaled."""
    size_px: Annotated[int, Range(16, 4096, "px")] = 224
    """Side of the square of the variants resize and centre_crop."""


class Dl3dv(Dataset):
    """Walks through real scenes (DL3DV-10K): images, cameras and poses.

    Scenes with cameras and poses; a scene is named by its folder below the root.
    """

    name: ClassVar[str] = "dl3dv"
    Options: ClassVar[type[Checked]] = Dl3dvOptions
    options: Dl3dvOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._folders = {_scene_name(self.root, folder): folder for folder in _scene_folders(self.root, self.options.image_folder)}
        return tuple(sorted(self._folders))

    def open_sequence(self, name: str) -> RecordedSequence:
        if name not in self._folders:
            raise InputError(f"{self.root / name / POSE_FILE}: no such file; a scene must have one")
        path = self._folders[name] / POSE_FILE
        content = read_object(path)
        frames = entry(content, "frames", str(path), list)
        if not frames:
            raise InputError(f"{path}: lists no frames; must list at least one")
        folder = path.parent / self.options.image_folder
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; option image_folder must name one of the scene's")
        files = [folder / PurePosixPath(entry(frame, "file_path", f"{path}: frame {i}", str)).name for i, frame in enumerate(frames)]
        camera = camera_of_images(_camera(content, path), files, path)
        places = [f"{path}: frame {file.name}" for file in files]
        world_from_opengl = np.stack([numbers(frame, "transform_matrix", place, (4, 4)) for frame, place in zip(frames, places, strict=True)])
        poses = rigid_poses(world_from_opengl @ _OPENGL_FROM_OPENCV, places)
        records = [FrameRecord(file.stem, file, *self._variant(file, camera), pose) for file, pose in zip(files, poses, strict=True)]
        return RecordedSequence(self.name, name, tuple(sorted(records, key=lambda record: record.name)), unit="arbitrary")

    def _variant(self, file: Path, camera: Camera) -> tuple[partial[NDArray[np.uint8]], Camera]:
        """How the file is read, and the camera of what is read."""
        side, size = self.options.size_px, (camera.width, camera.height)
        if self.options.variant == "full":
            return partial(read_image, file), camera
        if self.options.variant == "resize":
            return partial(read_resized, file, size, side), camera.resized(side, side)
        if side > min(size):
            raise InputError(f"{file} is {size[0]}x{size[1]}: too small to cut out {side}x{side}; option size_px must be at most {min(size)}")
        left, top = crop_corner(size, side)
        return partial(read_cropped, file, size, side), replace(camera, width=side, height=side, cx=camera.cx - left, cy=camera.cy - top)


def read_resized(path: Path, size: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """(side, side, 3): the whole image, squeezed to a square. size: (width, height) that the file must have."""
    image = read_image(path)
    check_size(path, image, size)
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def read_cropped(path: Path, size: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """(side, side, 3): the middle of the image. size: (width, height) that the file must have."""
    image = read_image(path)
    check_size(path, image, size)
    left, top = crop_corner(size, side)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def crop_corner(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Left and top of the square in the middle of an image of this (width, height)."""
    return (size[0] - side) // 2, (size[1] - side) // 2


def _scene_folders(folder: Path, image_folder: str, depth: int = 0) -> Iterator[Path]:
    """Folders with a transforms.json or a folder of images, not below one another."""
    if (folder / POSE_FILE).is_file() or (folder / image_folder).is_dir():
        yield folder
    elif depth < _MAX_DEPTH_OF_FOLDERS:
        with os.scandir(folder) as entries:
            inner = [Path(item.path) for item in entries if item.is_dir() and not item.name.startswith(_NEVER_SCENES)]
        for path in inner:
            yield from _scene_folders(path, image_folder, depth + 1)


def _scene_name(root: Path, folder: Path) -> str:
    scene = folder.parent if folder.name == "nerfstudio" and folder != root else folder
    return root.resolve().name if scene == root else scene.relative_to(root).as_posix()


def _camera(content: dict[str, Any], path: Path) -> Camera:
    """The camera for the full resolution."""
    model = content.get("camera_model", "OPENCV")
    if model not in _CAMERA_MODELS:
        raise InputError(f"{path}: camera_model = {model!r}: must be one of {', '.join(_CAMERA_MODELS)}")
    width, height, fx, fy, cx, cy = (float(numbers(content, key, str(path), ())) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"))
    lens = tuple(float(numbers(content, key, str(path), ())) if key in content else 0.0 for key in ("k1", "k2", "p1", "p2"))
    try:
        pinhole = Camera(round(width), round(height), fx, fy, cx - PIXEL_CENTRE, cy - PIXEL_CENTRE)
        return replace(pinhole, distortion_model="plumb_bob", distortion=lens) if any(lens) else pinhole
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
