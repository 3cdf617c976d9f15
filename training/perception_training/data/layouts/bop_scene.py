"""One scene of a set in the BOP format: frames with intrinsics, depth, scene poses and instance masks.

Layout, keys and units (mm, rotations row by row, OpenCV camera axes) as in thodan/bop_toolkit docs/bop_datasets_format.md; file suffixes and
names of multi-sensor sets as in bop_toolkit_lib/dataset_params.py (snapshot cea62d6).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.io.images import IMAGE_SUFFIXES, read_depth_image, read_image, read_label_image
from perception_training.data.layouts.bop_objects import (
    MILLIMETRE,
    Annotations,
    BopModels,
    integer,
    object_tracks,
    read_annotations,
    rigid_rotations,
)
from perception_training.data.layouts.image_sizes import image_size
from perception_training.data.layouts.json_entries import numbers, read_object
from perception_training.data.sequences import FrameRecord, RecordedSequence

COLOUR_FOLDERS = ("rgb", "gray")


def bop_scene(dataset: str, name: str, scene: Path, models: BopModels, sensor: str = "", only: Collection[int] | None = None) -> RecordedSequence:
    """The scene in this folder.

    sensor: suffix of the annotation files in multi-sensor sets · only: ids of the images to read; None: all. Raises InputError that names the
    file or folder that is missing or damaged.
    """
    suffix = f"_{sensor}" if sensor else ""
    cameras_path = scene / f"scene_camera{suffix}.json"
    _check_sensor(scene, cameras_path)
    listed = {integer(key, str(cameras_path)): value for key, value in read_object(cameras_path).items()}
    entries = {image_id: item for image_id, item in listed.items() if only is None or image_id in only}
    if not entries:
        raise InputError(f"{cameras_path}: lists no images{'' if only is None else ' that the targets name'}; must list at least one")
    image_ids = sorted(entries)
    colour = _folder(scene, [kind + suffix for kind in COLOUR_FOLDERS] + [sensor] * bool(sensor))
    paths = _image_files(colour, image_ids)
    width, height = _common_size(paths)
    annotations = read_annotations(scene, suffix, image_ids)
    poses = _scene_poses(entries, cameras_path)
    depths = _image_files(scene / f"depth{suffix}", image_ids) if (scene / f"depth{suffix}").is_dir() else None
    masks = scene / f"mask_visib{suffix}"
    records = []
    for frame, image_id in enumerate(image_ids):
        place = f"{cameras_path}, image {image_id}"
        scale = float(numbers(entries[image_id], "depth_scale", place, ())) if "depth_scale" in entries[image_id] else 1.0
        records.append(
            FrameRecord(
                name=f"{image_id:06d}",
                source=paths[frame],
                read_image=partial(read_image, paths[frame]),
                camera=_camera(entries[image_id], place, width, height),
                world_from_camera=poses[image_id],
                read_depth=partial(read_scaled_depth, depths[frame], scale * MILLIMETRE) if depths is not None else None,
                read_mask=_mask_reader(masks, annotations, frame, (height, width)) if annotations is not None and masks.is_dir() else None,
            )
        )
    objects = object_tracks(annotations, models) if annotations is not None else ()
    return RecordedSequence(dataset, name, tuple(records), objects)


def _check_sensor(scene: Path, cameras_path: Path) -> None:
    sensors = sorted(path.stem.removeprefix("scene_camera_") for path in scene.glob("scene_camera_*.json"))
    if not cameras_path.is_file() and sensors:
        raise InputError(f"{cameras_path}: missing; the scene has several sensors: choose one of {', '.join(sensors)}")


def _folder(scene: Path, names: Sequence[str]) -> Path:
    found = next((scene / name for name in names if (scene / name).is_dir()), None)
    if found is None:
        raise InputError(f"{scene}: has no folder of images; must have one of {', '.join(names)}")
    return found


def _image_files(folder: Path, image_ids: Sequence[int]) -> list[Path]:
    """The file of each image id. One that is absent gets the name that it should have, so that reading it reports it."""
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    suffix = next((path.suffix for path in files.values()), ".png")
    return [files.get(f"{image_id:06d}", folder / f"{image_id:06d}{suffix}") for image_id in image_ids]


def _common_size(paths: Sequence[Path]) -> tuple[int, int]:
    """(width, height) of the first image whose header can be read: the format writes no sizes, and a scene has one."""
    first_error: InputError | None = None
    for path in paths:
        try:
            return image_size(path)
        except InputError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def _camera(item: Mapping[str, Any], place: str, width: int, height: int) -> Camera:
    if "cam_model" in item and "cam_K" not in item:
        raise InputError(f"{place}: has the lens model {item['cam_model']}: only pinhole cameras (cam_K) can be read")
    matrix = numbers(item, "cam_K", place, (9,)).reshape(3, 3)
    try:
        return Camera.from_matrix(matrix, width, height)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _scene_poses(entries: Mapping[int, Mapping[str, Any]], path: Path) -> dict[int, NDArray[np.float64] | None]:
    """Image id → world_from_camera in metres, where the scene has poses."""
    with_pose = [image_id for image_id, item in entries.items() if "cam_R_w2c" in item]
    places = [f"{path}, image {image_id}" for image_id in with_pose]
    camera_from_world = np.tile(np.eye(4), (len(with_pose), 1, 1))
    for matrix, image_id, place in zip(camera_from_world, with_pose, places, strict=True):
        matrix[:3, :3] = numbers(entries[image_id], "cam_R_w2c", place, (9,)).reshape(3, 3)
        matrix[:3, 3] = MILLIMETRE * numbers(entries[image_id], "cam_t_w2c", place, (3,))
    poses: dict[int, NDArray[np.float64] | None] = dict.fromkeys(entries)
    poses.update(zip(with_pose, se3.inverse(rigid_rotations(camera_from_world, places)), strict=True))
    return poses


def read_scaled_depth(path: Path, metres_per_unit: float) -> NDArray[np.float32]:
    """(height, width) float32 metres of a 16-bit depth image in which 0 is unknown."""
    return read_depth_image(path).astype(np.float32) * np.float32(metres_per_unit)


def _mask_reader(folder: Path, annotations: Annotations, frame: int, size: tuple[int, int]) -> partial[NDArray[np.int32]]:
    ids = {key: number + 1 for number, key in enumerate(annotations.instances)}
    image_id = annotations.image_ids[frame]
    parts = tuple((folder / f"{image_id:06d}_{number:06d}.png", ids[key]) for number, key in enumerate(annotations.keys[frame]))
    return partial(read_instance_masks, parts, size)


def read_instance_masks(parts: Sequence[tuple[Path, int]], size: tuple[int, int]) -> NDArray[np.int32]:
    """(height, width) int32 ids from one image for each instance, not black where it is seen. Raises InputError that names the file."""
    ids = np.zeros(size, np.int32)
    for path, instance_id in parts:
        mask = read_label_image(path)
        if mask.shape != size:
            raise InputError(f"mask {path} is {mask.shape[1]}x{mask.shape[0]}: must be {size[1]}x{size[0]} like the images")
        ids[mask > 0] = instance_id
    return ids
