"""CO3Dv2 (Common Objects in 3D): turntable-like videos of objects with cameras, depth and foreground by reconstruction.

Layout after facebookresearch/co3d `README.md` and `co3d/dataset/data_types.py`: `<category>/frame_annotations.jgz` and
`sequence_annotations.jgz` (gzipped JSON), `<category>/set_lists/set_lists_<subset>.json` with (sequence, frame number, image path) for train, val
and test, and `<category>/<sequence>/{images,masks,depths,depth_masks}`; all paths are relative to the data set's root. Conventions after
facebookresearch/pytorch3d `implicitron/dataset/{frame_data,utils}.py`: X_camera = X_world R + T with x to the left and y up; focal length and
principal point in NDC, where `ndc_isotropic` counts half of the shorter side as 1 and `ndc_norm_image_bounds` half of each side, both from the
middle of the image to the left and up, with pixel centres at 0.5; depth PNGs hold the bits of float16 numbers and are multiplied by
`scale_adjustment`; masks hold the probability of the
foreground times 255 (more than half is foreground here). The unit of a reconstruction is arbitrary.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.io.images import read_image
from perception_training.data.layouts.annotation_files import read_gzipped_json, rigid_poses
from perception_training.data.layouts.annotation_index import indexed_annotations
from perception_training.data.layouts.depth_images import read_foreground, read_half_float_depth
from perception_training.data.layouts.json_entries import entry, numbers, read_object
from perception_training.data.sequences import UNKNOWN_POSE, Dataset, FrameRecord, RecordedSequence

FRAME_FILE, SEQUENCE_FILE = "frame_annotations.jgz", "sequence_annotations.jgz"
PIXEL_CENTRE = 0.5
_OPENCV_FROM_PYTORCH3D = np.diag([-1.0, -1.0, 1.0])
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Co3dOptions(Checked):
    """Which part of CO3Dv2 is read."""

    categories: tuple[str, ...] = ()
    """Names of categories; all that are on disk when empty."""
    subset: str = ""
    """Official set list, such as fewview_dev or manyview_test; categories without it are left out. Empty: all sequences and frames."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Part of the set list."""
    use_depth_masks: bool = True
    """Take depth as unknown where the set's depth masks say that views do not agree."""


class Co3dV2(Dataset):
    """Turntable-like videos of common objects (CO3Dv2): cameras, poses, depth and masks.

    Sequences `<category>/<sequence>` with cameras, poses, depth, foreground as instance 1, times and the category as text.
    """

    name: ClassVar[str] = "co3dv2"
    Options: ClassVar[type[Checked]] = Co3dOptions
    options: Co3dOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if self.options.split != "all" and not self.options.subset:
            raise InputError(f"{self.name} {self.root}: split {self.options.split} is part of a set list: option subset must name one")
        present = sorted(path.name for path in self.root.iterdir() if (path / SEQUENCE_FILE).is_file() or (path / FRAME_FILE).is_file())
        unknown = sorted(set(self.options.categories) - set(present))
        if unknown:
            raise InputError(f"{self.name} {self.root}: no category {unknown[0]!r}; there are {', '.join(present)}")
        return tuple(f"{category}/{name}" for category in self.options.categories or present for name in self._names_of(category))

    def _names_of(self, category: str) -> list[str]:
        if self.options.subset:
            return sorted(self._listed(category))
        path = self.root / category / SEQUENCE_FILE
        return sorted(entry(item, "sequence_name", str(path), str) for item in _items(read_gzipped_json(path), path))

    def _listed(self, category: str) -> dict[str, set[int]]:
        """Frame numbers of each sequence in the chosen set list; empty where the category has no such list."""
        path = self.root / category / "set_lists" / f"set_lists_{self.options.subset}.json"
        if not path.is_file():
            return {}
        return _frames_of_set_list(path, _SPLITS if self.options.split == "all" else (self.options.split,))

    def open_sequence(self, name: str) -> RecordedSequence:
        category, _, sequence = name.partition("/")
        path = self.root / category / FRAME_FILE
        frames = indexed_annotations(path, sequence, _frames_by_sequence)
        if not frames:
            raise InputError(f"{path}: holds no frames of sequence {sequence}")
        if self.options.subset:
            numbers_listed = self._listed(category).get(sequence, set())
            frames = [frame for frame in frames if frame["frame_number"] in numbers_listed]
            if not frames:
                raise InputError(f"{path}: holds none of the frames of sequence {sequence} that set list {self.options.subset} names")
        frames.sort(key=lambda frame: frame["frame_number"])
        places = [f"{path}: sequence {sequence}, frame {frame['frame_number']}" for frame in frames]
        matrices = np.stack([_camera_from_world(_part(frame, "viewpoint", place), place) for frame, place in zip(frames, places, strict=True)])
        poses = se3.inverse(rigid_poses(matrices, places))
        records = tuple(self._record(frame, pose, place) for frame, pose, place in zip(frames, poses, places, strict=True))
        return RecordedSequence(self.name, name, records, text=category, unit="arbitrary")

    def _record(self, frame: dict[str, Any], pose: NDArray[np.float64], place: str) -> FrameRecord:
        image = entry(frame, "image", place, dict)
        height, width = (int(side) for side in numbers(image, "size", place, (2,)))
        file, size = self.root / entry(image, "path", place, str), (width, height)
        viewpoint, depth, mask = (_part(frame, key, place) for key in ("viewpoint", "depth", "mask"))
        time_s = float(numbers(frame, "frame_timestamp", place, ())) if frame.get("frame_timestamp") is not None else -1.0
        return FrameRecord(
            name=file.stem,
            source=file,
            read_image=partial(read_image, file),
            camera=_camera(viewpoint, size, place) if viewpoint else None,
            world_from_camera=pose,
            read_depth=self._depth_reader(depth, size, place) if depth and depth.get("path") else None,
            read_mask=partial(read_foreground, self.root / entry(mask, "path", place, str), size) if mask and mask.get("path") else None,
            time_s=time_s if time_s >= 0 else None,
        )

    def _depth_reader(self, depth: dict[str, Any], size: tuple[int, int], place: str) -> partial[NDArray[np.float32]]:
        valid = depth.get("mask_path") if self.options.use_depth_masks else None
        scale = float(numbers(depth, "scale_adjustment", place, ()))
        return partial(read_half_float_depth, self.root / entry(depth, "path", place, str), scale, self.root / valid if valid else None, size)


def _part(frame: dict[str, Any], key: str, place: str) -> dict[str, Any] | None:
    """An annotation that a frame may lack."""
    return entry(frame, key, place, dict) if frame.get(key) is not None else None


def _items(content: Any, path: Path) -> list[Any]:
    if not isinstance(content, list):
        raise InputError(f"{path}: holds a {type(content).__name__} outermost; must be a list of annotations")
    return content


def _frames_by_sequence(path: Path) -> dict[str, list[Any]]:
    """The frames of each sequence of a category."""
    found: dict[str, list[Any]] = defaultdict(list)
    for item in _items(read_gzipped_json(path), path):
        entry(item, "frame_number", str(path), int)
        found[entry(item, "sequence_name", str(path), str)].append(item)
    return dict(found)


@lru_cache(maxsize=16)
def _frames_of_set_list(path: Path, splits: tuple[str, ...]) -> dict[str, set[int]]:
    content, found = read_object(path), defaultdict(set)
    for split in splits:
        for item in entry(content, split, str(path), list):
            if not isinstance(item, list) or len(item) != 3 or not isinstance(item[0], str) or not isinstance(item[1], int):
                raise InputError(f"{path}: {split} holds {str(item)[:80]}: must be sequence name, frame number and image path")
            found[item[0]].add(item[1])
    return dict(found)


def _camera_from_world(viewpoint: dict[str, Any] | None, place: str) -> NDArray[np.float64]:
    """The pose of an annotation in PyTorch3D's conventions, as it is written; NaN without one."""
    if viewpoint is None:
        return UNKNOWN_POSE
    pose = np.eye(4)
    pose[:3, :3] = _OPENCV_FROM_PYTORCH3D @ numbers(viewpoint, "R", place, (3, 3)).T
    pose[:3, 3] = _OPENCV_FROM_PYTORCH3D @ numbers(viewpoint, "T", place, (3,))
    return pose


def _camera(viewpoint: dict[str, Any], size: tuple[int, int], place: str) -> Camera:
    """The intrinsics of an annotation in PyTorch3D's conventions; size: (width, height)."""
    half = np.array(size) / 2
    kind = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")
    if kind not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise InputError(f"{place}: intrinsics_format = {kind!r}: must be ndc_isotropic or ndc_norm_image_bounds")
    unit_px = half if kind == "ndc_norm_image_bounds" else np.full(2, half.min())
    focal_px = numbers(viewpoint, "focal_length", place, (2,)) * unit_px
    principal_px = half - numbers(viewpoint, "principal_point", place, (2,)) * unit_px - PIXEL_CENTRE
    try:
        return Camera(*size, float(focal_px[0]), float(focal_px[1]), float(principal_px[0]), float(principal_px[1]))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
