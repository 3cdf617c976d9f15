"""Objects of a scene in the BOP format: poses, boxes and visibility of every instance through the frames, and the models they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception_training.data.layouts.json_entries import entry, numbers, read_object
from perception_training.data.sample import MAX_ROTATION_ERROR, ObjectTrack, check_pose

MILLIMETRE = 0.001

InstanceKey = tuple[int, int]
"""(object id, number among the instances of this object in its image)."""


@dataclass(frozen=True)
class BopModels:
    """The folder of models of a set: mesh files in millimetres and models_info.json; either may be absent."""

    folder: Path | None

    def mesh(self, object_id: int) -> Path | None:
        path = None if self.folder is None else self.folder / f"obj_{object_id:06d}.ply"
        return path if path is not None and path.is_file() else None

    def bounds(self) -> dict[int, NDArray[np.float64]]:
        """Object id → (2, 3) lower and upper corner in metres. Raises InputError that names models_info.json when it is damaged."""
        path = None if self.folder is None else self.folder / "models_info.json"
        if path is None or not path.is_file():
            return {}
        found = {}
        for key, info in read_object(path).items():
            place = f"{path}, object {key}"
            corner, size = (np.array([numbers(info, f"{name}_{axis}", place, ()) for axis in "xyz"]) for name in ("min", "size"))
            found[integer(key, place)] = MILLIMETRE * np.stack([corner, corner + size])
        return found


@dataclass(frozen=True, eq=False)
class Annotations:
    """Entries of scene_gt.json, and of scene_gt_info.json where it is there, of the frames that are read, in their order.

    keys: of each frame, the instance that each entry is of.
    """

    path: Path
    image_ids: tuple[int, ...]
    entries: tuple[tuple[Mapping[str, Any], ...], ...]
    keys: tuple[tuple[InstanceKey, ...], ...]
    info: tuple[tuple[Mapping[str, Any], ...], ...] | None

    def place(self, frame: int, number: int) -> str:
        return f"{self.path}, image {self.image_ids[frame]}, entry {number}"

    @property
    def instances(self) -> tuple[InstanceKey, ...]:
        """All instances of the sequence; the mask id of each is its place in this list, counted from 1."""
        return tuple(sorted({key for frame in self.keys for key in frame}))


def read_annotations(scene: Path, suffix: str, image_ids: Sequence[int]) -> Annotations | None:
    """The annotations of these images; None for a scene whose ground truth is kept back. Raises InputError that names the damaged file."""
    path, info_path = scene / f"scene_gt{suffix}.json", scene / f"scene_gt_info{suffix}.json"
    if not path.is_file():
        return None
    entries = _per_image(path, image_ids)
    info = _per_image(info_path, image_ids) if info_path.is_file() else None
    keys = []
    for frame, image_id in enumerate(image_ids):
        place = f"{path}, image {image_id}"
        keys.append(_instance_keys([entry(item, "obj_id", place, int) for item in entries[frame]]))
        if info is not None and len(info[frame]) != len(entries[frame]):
            raise InputError(f"{info_path}, image {image_id}: {len(info[frame])} entries for {len(entries[frame])} in {path.name}; must be as many")
    return Annotations(path, tuple(image_ids), entries, tuple(keys), info)


def _per_image(path: Path, image_ids: Sequence[int]) -> tuple[tuple[Mapping[str, Any], ...], ...]:
    content = read_object(path)
    found = []
    for image_id in image_ids:
        items = content.get(str(image_id), [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{path}, image {image_id}: must hold a list of objects")
        found.append(tuple(items))
    return tuple(found)


def _instance_keys(object_ids: list[int]) -> tuple[InstanceKey, ...]:
    seen: Counter[int] = Counter()
    keys = []
    for object_id in object_ids:
        keys.append((object_id, seen[object_id]))
        seen[object_id] += 1
    return tuple(keys)


def object_tracks(annotations: Annotations, models: BopModels) -> tuple[ObjectTrack, ...]:
    """One track for each instance, in metres. Raises InputError that names file, image and entry of a pose that is no rotation."""
    bounds = models.bounds()
    poses = _poses(annotations)
    tracks = []
    for number, key in enumerate(annotations.instances):
        object_id, repeat = key
        camera_from_object = np.full((len(annotations.keys), 4, 4), np.nan)
        visible, boxes = np.zeros(len(annotations.keys)), np.full((len(annotations.keys), 4), np.nan)
        for frame, keys in enumerate(annotations.keys):
            if key in keys:
                entry_number = keys.index(key)
                camera_from_object[frame] = poses[frame, entry_number]
                if annotations.info is not None:
                    visible[frame], boxes[frame] = _visibility(annotations, frame, entry_number)
        tracks.append(
            ObjectTrack(
                name=f"obj_{object_id:06d}" + (f"#{repeat}" if repeat else ""),
                camera_from_object=camera_from_object,
                mask_id=number + 1,
                bounds=bounds.get(object_id),
                mesh=models.mesh(object_id),
                visible_share=None if annotations.info is None else visible,
                boxes_px=None if annotations.info is None else boxes,
                mesh_unit_m=MILLIMETRE,
            )
        )
    return tuple(tracks)


def _visibility(annotations: Annotations, frame: int, number: int) -> tuple[float, NDArray[np.float64]]:
    """Visible share and the box of the visible part; the format gives (x, y, width, height) with width = highest - lowest x, -1 for none."""
    assert annotations.info is not None
    place = annotations.place(frame, number).replace("scene_gt", "scene_gt_info")
    info = annotations.info[frame][number]
    share = float(numbers(info, "visib_fract", place, ()))
    x, y, width, height = numbers(info, "bbox_visib", place, (4,))
    return share, np.array([x, y, x + width, y + height]) if width >= 0 and height >= 0 else np.full(4, np.nan)


def _poses(annotations: Annotations) -> dict[tuple[int, int], NDArray[np.float64]]:
    """(frame, entry) → camera_from_object (4, 4) in metres."""
    places = [(frame, number) for frame, items in enumerate(annotations.entries) for number in range(len(items))]
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    for pose, (frame, number) in zip(poses, places, strict=True):
        place = annotations.place(frame, number)
        item = annotations.entries[frame][number]
        pose[:3, :3] = numbers(item, "cam_R_m2c", place, (9,)).reshape(3, 3)
        pose[:3, 3] = MILLIMETRE * numbers(item, "cam_t_m2c", place, (3,))
    rigid = rigid_rotations(poses, [annotations.place(*place) for place in places])
    return dict(zip(places, rigid, strict=True))


def rigid_rotations(poses: NDArray[np.float64], places: Sequence[str]) -> NDArray[np.float64]:
    """The (N, 4, 4) poses with rotations made exactly orthonormal. Raises InputError that names the place of the first that is none."""
    if not len(poses):
        return poses
    rotations = poses[:, :3, :3]
    error = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    for index in np.flatnonzero(~((error <= MAX_ROTATION_ERROR) & (np.linalg.det(rotations) > 0))):
        check_pose(poses[index], places[int(index)])
    left, _, right = np.linalg.svd(rotations)
    rigid = poses.copy()
    rigid[:, :3, :3] = left @ right
    return rigid


def integer(text: str, place: str) -> int:
    """The id that a JSON key spells. Raises InputError that names `place`."""
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{place}: {text!r} must be an integer id") from error
