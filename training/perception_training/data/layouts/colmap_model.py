"""A COLMAP sparse model: cameras, images and points3D, binary or text.

Layout after colmap/colmap `doc/format.rst`, `doc/database.rst` and `scripts/python/read_write_model.py`: little endian; poses are
camera_from_world as (qw qx qy qz) and translation with OpenCV's camera axes; pixel centres at 0.5, so 0.5 is subtracted here. Binary files are
preferred where both exist, as COLMAP does. `rigs` and `frames` of newer versions add nothing to `cameras` and `images` and are not read.
Parameters of the camera models after `src/colmap/sensor/models.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry.so3 import from_quaternion_xyzw
from perception_training.data.layouts.annotation_files import read_bytes, read_text

PIXEL_CENTRE = 0.5
"""Where COLMAP has the centre of the first pixel."""

NO_POINT = -1
"""point3D_id of a keypoint that belongs to no point."""

KEYPOINT = np.dtype([("xy", "<f8", 2), ("point_id", "<i8")])
_NUM_PARAMETERS = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
}
_MODEL_NAMES = (*list(_NUM_PARAMETERS)[:7], "FOV", *list(_NUM_PARAMETERS)[7:])
"""By model id; no camera of ours stands for FOV and the ids above."""
_ONE_FOCAL_LENGTH = {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
_IMAGE, _POINT, _CAMERA = struct.Struct("<i7di"), struct.Struct("<Q3d3Bd"), struct.Struct("<iiQQ")
_COUNT, _OBSERVATION_BYTES = struct.Struct("<Q"), 8

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One registered image: name (with sub folders) below the image folder, its camera's id and camera_from_world (4, 4).

    keypoints (n,) of KEYPOINT with COLMAP's pixel centres; empty unless they were asked for.
    """

    name: str
    camera_id: int
    camera_from_world: NDArray[np.float64]
    keypoints: NDArray


@dataclass(frozen=True, eq=False)
class ColmapPoints:
    """The N points of a model: ids (N,), xyz (N, 3), error_px (N,) mean reprojection error, num_observations (N,)."""

    ids: NDArray[np.int64]
    xyz: NDArray[np.float64]
    error_px: NDArray[np.float64]
    num_observations: NDArray[np.int64]


def model_file(folder: Path, stem: str) -> Path:
    """The binary or else the text file of a model. Raises InputError that names the binary one when neither is there."""
    for suffix in (".bin", ".txt"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    raise InputError(f"{folder / stem}.bin: no such file, nor {folder / stem}.txt; a COLMAP model has one of them")


def read_cameras(folder: Path) -> dict[int, Camera]:
    """Cameras by id, pixel centres at integers. Raises InputError for a model of lens that `Camera` lacks."""
    path = model_file(folder, "cameras")
    return dict(_cameras_of_text(path) if path.suffix == ".txt" else _read_binary(path, _cameras_of_binary))


def read_images(folder: Path, *, with_keypoints: bool = False) -> list[ColmapImage]:
    """Registered images in the file's order."""
    path = model_file(folder, "images")
    if path.suffix == ".txt":
        return list(_images_of_text(path, with_keypoints))
    return list(_read_binary(path, lambda data, where: _images_of_binary(data, where, with_keypoints)))


def read_points(folder: Path) -> ColmapPoints:
    """All points of the model; which images see them is told by the images' keypoints."""
    path = model_file(folder, "points3D")
    rows = list(_points_of_text(path) if path.suffix == ".txt" else _read_binary(path, _points_of_binary))
    table = np.array(rows, np.float64).reshape(-1, 6)
    return ColmapPoints(np.array([row[0] for row in rows], np.int64), table[:, 1:4], table[:, 4], table[:, 5].astype(np.int64))


def _camera(path: Path, model: str, width: int, height: int, parameters: tuple[float, ...]) -> Camera:
    if model not in _NUM_PARAMETERS:
        raise InputError(f"{path}: camera model {model} is not handled; handled: {', '.join(_NUM_PARAMETERS)}. COLMAP's image_undistorter removes it")
    if len(parameters) != _NUM_PARAMETERS[model]:
        raise InputError(f"{path}: camera model {model} has {len(parameters)} parameters: must have {_NUM_PARAMETERS[model]}")
    if model in _ONE_FOCAL_LENGTH:
        parameters = (parameters[0], *parameters)
    fx, fy, cx, cy, *lens = parameters
    try:
        pinhole = Camera(width, height, fx, fy, cx - PIXEL_CENTRE, cy - PIXEL_CENTRE)
        if not lens:
            return pinhole
        kind = "equidistant" if "FISHEYE" in model else "rational_polynomial" if model == "FULL_OPENCV" else "plumb_bob"
        return Camera.from_matrix(pinhole.matrix, width, height, distortion_model=kind, distortion=tuple(lens) + (0.0,) * (4 - len(lens)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _pose(path: Path, name: str, quaternion_wxyz: tuple[float, ...], translation: tuple[float, ...]) -> NDArray[np.float64]:
    pose = np.eye(4)
    quaternion, pose[:3, 3] = np.array(quaternion_wxyz, np.float64), translation
    length = np.linalg.norm(quaternion)
    if not np.isfinite(pose).all() or not np.isfinite(length) or abs(length - 1) > 1e-3:
        raise InputError(f"{path}: image {name}: pose quaternion {quaternion_wxyz} with translation {translation}: must be finite and of length 1")
    pose[:3, :3] = from_quaternion_xyzw(np.roll(quaternion / length, -1))
    return pose


def _read_binary(path: Path, items: Callable[[bytes, Path], Iterator[ItemT]]) -> list[ItemT]:
    """Everything in the file, with whatever the parser trips over turned into an error that names it."""
    try:
        return list(items(read_bytes(path), path))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no COLMAP model, or truncated ({error})") from error


def _check_end(path: Path, data: bytes, at: int) -> None:
    if at != len(data):
        raise InputError(f"{path}: no COLMAP model, or truncated: its items end at byte {at} of {len(data)}")


def _cameras_of_binary(data: bytes, path: Path) -> Iterator[tuple[int, Camera]]:
    (num,), at = _COUNT.unpack_from(data), _COUNT.size
    for _ in range(num):
        camera_id, model_id, width, height = _CAMERA.unpack_from(data, at)
        model = _MODEL_NAMES[model_id] if 0 <= model_id < len(_MODEL_NAMES) else f"number {model_id}"
        num_parameters = _NUM_PARAMETERS.get(model, 0)
        parameters = struct.unpack_from(f"<{num_parameters}d", data, at + _CAMERA.size)
        yield camera_id, _camera(path, model, width, height, parameters)
        at += _CAMERA.size + 8 * num_parameters
    _check_end(path, data, at)


def _images_of_binary(data: bytes, path: Path, with_keypoints: bool) -> Iterator[ColmapImage]:
    (num,), at = _COUNT.unpack_from(data), _COUNT.size
    for _ in range(num):
        _, *pose, camera_id = _IMAGE.unpack_from(data, at)
        end = data.index(b"\0", at + _IMAGE.size)
        name = data[at + _IMAGE.size : end].decode("utf-8")
        (num_keypoints,) = _COUNT.unpack_from(data, end + 1)
        at = end + 1 + _COUNT.size
        keypoints = np.frombuffer(data, KEYPOINT, num_keypoints if with_keypoints else 0, at)
        at += num_keypoints * KEYPOINT.itemsize
        yield ColmapImage(name, camera_id, _pose(path, name, tuple(pose[:4]), tuple(pose[4:])), keypoints)
    _check_end(path, data, at)


def _points_of_binary(data: bytes, path: Path) -> Iterator[tuple[float, ...]]:
    (num,), at = _COUNT.unpack_from(data), _COUNT.size
    for _ in range(num):
        point_id, x, y, z, _, _, _, error = _POINT.unpack_from(data, at)
        (num_observations,) = _COUNT.unpack_from(data, at + _POINT.size)
        at += _POINT.size + _COUNT.size + num_observations * _OBSERVATION_BYTES
        yield point_id, x, y, z, error, num_observations
    _check_end(path, data, at)


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1) if not line.startswith("#"))


def _damaged_line(path: Path, number: int, what: str) -> InputError:
    return InputError(f"{path}: line {number} is no {what} of a COLMAP model, or truncated")


def _cameras_of_text(path: Path) -> Iterator[tuple[int, Camera]]:
    for number, line in _numbered_lines(path):
        if not line:
            continue
        try:
            camera_id, model, width, height, *parameters = line.split()
            values = int(camera_id), model, int(width), int(height), tuple(map(float, parameters))
        except ValueError as error:
            raise _damaged_line(path, number, "camera") from error
        yield values[0], _camera(path, *values[1:])


def _images_of_text(path: Path, with_keypoints: bool) -> Iterator[ColmapImage]:
    lines = _numbered_lines(path)
    for number, line in lines:
        if not line:
            continue
        try:
            _, *pose, camera_id, name = line.split(maxsplit=9)
            values, camera = tuple(map(float, pose)), int(camera_id)
            keypoint_number, keypoint_line = next(lines, (number, ""))  # an image without keypoints at the very end may lack its second line
        except ValueError as error:
            raise _damaged_line(path, number, "image") from error
        keypoints = _keypoints_of_text(path, keypoint_number, keypoint_line) if with_keypoints else np.zeros(0, KEYPOINT)
        yield ColmapImage(name, camera, _pose(path, name, values[:4], values[4:]), keypoints)


def _keypoints_of_text(path: Path, number: int, line: str) -> NDArray:
    try:
        table = np.array(line.split(), np.float64).reshape(-1, 3)
    except ValueError as error:
        raise _damaged_line(path, number, "list of keypoints") from error
    keypoints = np.zeros(len(table), KEYPOINT)
    keypoints["xy"], keypoints["point_id"] = table[:, :2], table[:, 2]
    return keypoints


def _points_of_text(path: Path) -> Iterator[tuple[float, ...]]:
    for number, line in _numbered_lines(path):
        if not line:
            continue
        fields = line.split()
        try:
            point_id, x, y, z, error = int(fields[0]), *map(float, fields[1:4]), float(fields[7])
        except (ValueError, IndexError) as failure:
            raise _damaged_line(path, number, "point") from failure
        yield point_id, x, y, z, error, (len(fields) - 8) // 2
