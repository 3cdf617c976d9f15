"""Text, JSON and matrix files of annotations, read with errors that name the file."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception_training.data.sample import check_pose


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises InputError that names it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_text(path: Path) -> str:
    """The file as UTF-8 text. Raises InputError that names it when it is missing or holds something else."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text ({error.reason} at byte {error.start})") from error


def read_lines(path: Path) -> list[str]:
    """Lines of the text that are neither empty nor comments (#), stripped."""
    return [line for line in map(str.strip, read_text(path).splitlines()) if line and not line.startswith("#")]


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises InputError that names the file."""
    return _parsed(read_text(path), path)


def read_gzipped_json(path: Path) -> Any:
    """The value in a gzipped JSON file. Raises InputError that names the file."""
    try:
        text = gzip.decompress(read_bytes(path)).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no gzipped text, or truncated ({error})") from error
    return _parsed(text, path)


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: is no JSON, or truncated ({error})") from error


def read_matrix(path: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    """A matrix written as text, row by row; it may hold NaN or infinite numbers. Raises InputError that names the file."""
    text = read_text(path)
    try:
        values = np.array(text.split(), np.float64)
    except ValueError as error:
        raise InputError(f"{path}: not a matrix of numbers ({error})") from error
    if len(values) != shape[0] * shape[1]:
        raise InputError(f"{path}: holds {len(values)} numbers: must be a {shape[0]}x{shape[1]} matrix")
    return values.reshape(shape)


def rigid(matrix: NDArray, place: str) -> NDArray[np.float64]:
    """The (4, 4) pose with its rotation made exactly orthonormal. Raises InputError that names `place` when it is not nearly a rigid motion."""
    check_pose(matrix, place)
    if np.isnan(matrix).all():
        return np.asarray(matrix, np.float64)
    left, _, right = np.linalg.svd(matrix[:3, :3])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = left @ right, matrix[:3, 3]
    return pose
