"""One video of YCB-Video as its authors publish it: `data/0048/000001-{color.png,depth.png,label.png,meta.mat}`.

Fields of meta.mat, the division of the depth by factor_depth, class names, models/<class>/textured.obj in metres and keyframe lists:
yuxng/YCB_Video_toolbox (README, show_pose_annotations.m, classes.txt, keyframe.txt; snapshot d08b645). rotation_translation_matrix is
camera_from_world, as yuxng/PoseCNN uses it (pose_world2live = RT_live * RT_first^-1). Copies with -color.jpg are read too. `-box.txt` holds the
boxes of the objects; its columns could not be verified, so it is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.io.images import read_image, read_label_image
from perception_training.data.layouts.annotation_files import rigid
from perception_training.data.layouts.bop_scene import read_scaled_depth
from perception_training.data.layouts.image_sizes import image_size
from perception_training.data.sample import ObjectTrack, Sample
from perception_training.data.sequences import UNKNOWN_POSE, FrameRecord, FrameSequence, RecordedSequence

CLASSES = (
    "002_master_chef_can", "003_cracker_box", "004_sugar_box", "005_tomato_soup_can", "006_mustard_bottle", "007_tuna_fish_can",
    "008_pudding_box", "009_gelatin_box", "010_potted_meat_can", "011_banana", "019_pitcher_base", "021_bleach_cleanser", "024_bowl", "025_mug",
    "035_power_drill", "036_wood_block", "037_scissors", "040_large_marker", "051_large_clamp", "052_extra_large_clamp", "061_foam_brick",
)  # fmt: skip
"""Class index in the labels = place in this list, counted from 1."""

_SHAPES = {"intrinsic_matrix": (3, 3), "rotation_translation_matrix": (3, 4)}


class YcbToolboxSequence(FrameSequence):
    """Frames of one video. Cameras and poses lie in a file for each frame, which is read with the frame.

    stems: paths of the frames without their endings, in order · models: the folder of the object models, None where it is absent.
    """

    def __init__(self, dataset: str, name: str, stems: Sequence[Path], models: Path | None) -> None:
        self.dataset, self.name = dataset, name
        self._stems, self._models = tuple(stems), models
        if not self._stems:
            raise InputError(f"{dataset}/{name}: the sequence has no frames; must have at least one")

    @property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(stem.name for stem in self._stems)

    @cached_property
    def world_from_camera(self) -> NDArray[np.float64] | None:
        poses = [_world_from_camera(_read_meta(stem), stem) for stem in self._stems]
        return None if all(pose is None for pose in poses) else np.stack([UNKNOWN_POSE if pose is None else pose for pose in poses])

    def source(self, frame: int) -> str:
        return str(self._stems[frame])

    def load(self, frames: Sequence[int]) -> Sample:
        wrong = [frame for frame in frames if not 0 <= frame < len(self)]
        if wrong:
            raise InputError(f"{self.dataset}/{self.name}: frame {wrong[0]} is not there; must be in [0, {len(self)})")
        stems = [self._stems[frame] for frame in frames]
        metas = [_read_meta(stem) for stem in stems]
        records = tuple(_record(stem, meta) for stem, meta in zip(stems, metas, strict=True))
        objects = _objects(stems, metas, self._models)
        return RecordedSequence(self.dataset, self.name, records, objects).load(range(len(records)))


def _meta_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}-meta.mat")


def _read_meta(stem: Path) -> dict[str, Any]:
    path = _meta_path(stem)
    wanted = ("cls_indexes", "factor_depth", "intrinsic_matrix", "poses", "rotation_translation_matrix")
    try:
        with path.open("rb") as stream:
            meta: dict[str, Any] = scipy.io.loadmat(stream, variable_names=wanted)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # scipy and zlib raise a dozen unrelated types for a file that is cut off or is no MAT file.
        raise InputError(f"{path}: no MAT file, or truncated ({error})") from error
    missing = [name for name in wanted[:4] if name not in meta]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing; must hold {', '.join(wanted[:4])}")
    for name, shape in _SHAPES.items():
        if name in meta and meta[name].shape != shape:
            raise InputError(f"{path}: {name} has shape {meta[name].shape}: must be {shape}")
    count = meta["cls_indexes"].size
    meta["poses"] = meta["poses"].reshape(*meta["poses"].shape[:2], -1)  # MATLAB drops the last axis of a single object
    if meta["poses"].shape != (3, 4, count):
        raise InputError(f"{path}: poses have shape {meta['poses'].shape}: must be (3, 4, {count}) for {count} objects")
    return meta


def _world_from_camera(meta: dict[str, Any], stem: Path) -> NDArray[np.float64] | None:
    if "rotation_translation_matrix" not in meta:
        return None
    return np.asarray(se3.inverse(_rigid(meta["rotation_translation_matrix"], f"{_meta_path(stem)}, rotation_translation_matrix")))


def _rigid(upper: NDArray, place: str) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3] = upper
    return rigid(matrix, place)


def _record(stem: Path, meta: dict[str, Any]) -> FrameRecord:
    colour = next((path for path in (stem.with_name(f"{stem.name}-color{end}") for end in (".png", ".jpg")) if path.is_file()), None)
    colour = colour or stem.with_name(f"{stem.name}-color.png")
    depth, label = (stem.with_name(f"{stem.name}-{kind}.png") for kind in ("depth", "label"))
    factor = float(np.asarray(meta["factor_depth"]).reshape(-1)[0])
    if not factor > 0:
        raise InputError(f"{_meta_path(stem)}: factor_depth = {factor}: must be positive")
    try:
        # The intrinsics are for the size of the depth image: the file writes none.
        camera = Camera.from_matrix(np.asarray(meta["intrinsic_matrix"], np.float64), *image_size(depth))
    except InputError as error:
        raise InputError(f"{_meta_path(stem)}: {error}") from error
    return FrameRecord(
        name=stem.name,
        source=colour,
        read_image=partial(read_image, colour),
        camera=camera,
        world_from_camera=_world_from_camera(meta, stem),
        read_depth=partial(read_scaled_depth, depth, 1 / factor),
        read_mask=partial(read_label_image, label),
    )


def _objects(stems: Sequence[Path], metas: Sequence[dict[str, Any]], models: Path | None) -> tuple[ObjectTrack, ...]:
    """The objects of these frames; a video has each class once."""
    classes = [[int(value) for value in meta["cls_indexes"].reshape(-1)] for meta in metas]
    tracks = []
    for number in sorted({value for frame in classes for value in frame}):
        if not 1 <= number <= len(CLASSES):
            raise InputError(f"{_meta_path(stems[0])}: class {number}: must be in [1, {len(CLASSES)}]")
        poses = np.full((len(stems), 4, 4), np.nan)
        for frame, (stem, meta) in enumerate(zip(stems, metas, strict=True)):
            if number in classes[frame]:
                poses[frame] = _rigid(meta["poses"][:, :, classes[frame].index(number)], f"{_meta_path(stem)}, pose of class {number}")
        mesh = None if models is None else models / CLASSES[number - 1] / "textured.obj"
        tracks.append(ObjectTrack(CLASSES[number - 1], poses, number, mesh=mesh if mesh is not None and mesh.is_file() else None))
    return tuple(tracks)
