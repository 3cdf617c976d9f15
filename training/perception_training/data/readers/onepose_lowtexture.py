"""OnePose-LowTexture (and OnePose): objects seen in two or more handheld sequences, with a bounding box and refined object poses.

Layout as in zju3dv/OnePose_Plus_Plus doc/dataset_document.md, src/utils/path_utils.py and parse_scanned_data.py (snapshot d76ab6f):
`lowtexture_test_data/<id>-<object>-<category>/box3d_corners.txt` (8 corners in metres) and in `<object>-<number>/`: `color/<i>.png` (512x512
crops), `intrin_ba/<i>.txt` (3x3 of the crop), `poses_ba/<i>.txt` (4x4 camera_from_object), `intrinsics.txt` (fx, fy, cx, cy of the whole frame)
and `Frames.m4v`, whose frame i became the crop i. The first sequence of an object is the reference, the last one the query (configs/preprocess/
sfm_inference_lowtexture.yaml, inference.py); qq456cvb/3DCorrEnhance evaluate.py uses the same two. Which pixel the intrinsics count from is not
documented: both evaluations apply them to pixel indices, and so does this reader. What OnePose++ computes (anno_loftr) is not part of the set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.io.images import IMAGE_SUFFIXES, natural_key, read_image
from perception.io.video_frames import read_video_frame, video_frames
from perception_training.data.layouts.annotation_files import read_lines, read_matrix, rigid
from perception_training.data.layouts.image_sizes import image_size
from perception_training.data.sample import ObjectTrack
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

SET_FOLDER = "lowtexture_test_data"


@dataclass(frozen=True, kw_only=True)
class OnePoseOptions(Checked):
    """Which sequences and which images of OnePose are read."""

    role: Literal["all", "reference", "query"] = "all"
    """Sequences that an object is learnt from (the first of each), that it is looked for in (the last of each), or all."""
    frames_of: Literal["crop", "full"] = "crop"
    """The published crops around the object, or whole frames: color_full where it was unpacked, else decoded from Frames.m4v."""


class OnePoseLowTexture(Dataset):
    """Handheld videos of objects with little texture: reference and query sequences with object poses."""

    name: ClassVar[str] = "onepose_lowtexture"
    Options: ClassVar[type[Checked]] = OnePoseOptions
    options: OnePoseOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if (self.root / SET_FOLDER).is_dir():
            self.root = self.root / SET_FOLDER
        names = []
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir() and path.name.count("-") >= 2):
            numbered = _numbered_sequences(folder)
            chosen = {"all": numbered, "reference": numbered[:1], "query": numbered[-1:]}[self.options.role]
            names += [f"{folder.name}/{sequence}" for sequence in chosen]
        return tuple(names)

    def open_sequence(self, name: str) -> RecordedSequence:
        folder = self.root / name
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; must hold a sequence")
        poses = {path.stem: path for path in _files(folder / "poses_ba", (".txt",))}
        crops = {path.stem: path for path in _files(folder / "color", IMAGE_SUFFIXES)}
        stems = sorted(poses.keys() | crops.keys(), key=lambda stem: natural_key(Path(stem)))
        if not stems:
            raise InputError(f"{folder}: the sequence has no frames; must have crops in color and poses in poses_ba")
        pose_paths = [poses.get(stem, folder / "poses_ba" / f"{stem}.txt") for stem in stems]
        camera_from_object = np.stack([rigid(read_matrix(path, (4, 4)), str(path)) for path in pose_paths])
        images = [crops.get(stem, folder / "color" / f"{stem}.png") for stem in stems]
        read = _crops(folder, stems, images) if self.options.frames_of == "crop" else _whole_frames(folder, stems)
        records = tuple(
            FrameRecord(stem, source, read_frame, camera, world_from_camera=pose)
            for stem, (source, read_frame, camera), pose in zip(stems, read, se3.inverse(camera_from_object), strict=True)
        )
        object_name = folder.parent.name.split("-")[1]
        numbered = _numbered_sequences(folder.parent)
        role = "reference" if folder.name == numbered[0] else "query" if folder.name == numbered[-1] else "other"
        track = ObjectTrack(object_name, camera_from_object, bounds=_bounds(folder.parent / "box3d_corners.txt"))
        return RecordedSequence(self.name, name, records, (track,), text=object_name, attributes={"role": role})


ReadFrame = tuple[Path, partial[NDArray[np.uint8]], Camera]
"""(source, how it is read, its camera)."""


def _numbered_sequences(folder: Path) -> list[str]:
    """Sequences of an object in the order of their numbers."""
    names = [path.name for path in folder.iterdir() if path.is_dir() and path.name.rpartition("-")[2].isdigit()]
    return sorted(names, key=lambda name: int(name.rpartition("-")[2]))


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix.lower() in suffixes] if folder.is_dir() else []


def _bounds(path: Path) -> NDArray[np.float64]:
    corners = read_matrix(path, (8, 3))
    if not np.isfinite(corners).all():
        raise InputError(f"{path}: holds NaN or infinite numbers; must be eight corners")
    return np.stack([corners.min(0), corners.max(0)])


def _crops(folder: Path, stems: Iterable[str], images: list[Path]) -> list[ReadFrame]:
    size = image_size(next((path for path in images if path.is_file()), images[0]))
    found = []
    for stem, image in zip(stems, images, strict=True):
        path = folder / "intrin_ba" / f"{stem}.txt"
        found.append((image, partial(read_image, image), _camera(read_matrix(path, (3, 3)), size, path)))
    return found


def _whole_frames(folder: Path, stems: list[str]) -> list[ReadFrame]:
    matrix, unpacked, video = _read_intrinsics(folder / "intrinsics.txt"), folder / "color_full", folder / "Frames.m4v"
    if unpacked.is_dir():
        paths = [unpacked / f"{stem}.png" for stem in stems]
        size = image_size(next((path for path in paths if path.is_file()), paths[0]))
        return [(path, partial(read_image, path), _camera(matrix, size, folder / "intrinsics.txt")) for path in paths]
    unnumbered = [stem for stem in stems if not stem.isdigit()]
    if unnumbered:
        raise InputError(f"{folder}: frame {unnumbered[0]!r} has no number: it cannot be found in {video.name}")
    frames = video_frames(video)
    camera = _camera(matrix, (frames.width, frames.height), folder / "intrinsics.txt")
    return [(video, partial(read_video_frame, video, int(stem)), camera) for stem in stems]


def _camera(matrix: NDArray[np.float64], size: tuple[int, int], path: Path) -> Camera:
    try:
        return Camera.from_matrix(matrix, *size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_intrinsics(path: Path) -> NDArray[np.float64]:
    """The 3x3 matrix of four lines `fx: 1500.0`."""
    values = {}
    for line in read_lines(path):
        name, _, text = line.partition(":")
        try:
            values[name.strip()] = float(text)
        except ValueError as error:
            raise InputError(f"{path}: line {line[:40]!r}: must be a name and a number, such as fx: 1500.0") from error
    missing = [name for name in ("fx", "fy", "cx", "cy") if name not in values]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing; must hold fx, fy, cx and cy")
    return np.array([[values["fx"], 0, values["cx"]], [0, values["fy"], values["cy"]], [0, 0, 1]])
