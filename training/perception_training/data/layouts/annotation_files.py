"""Text, JSON and matrix files of annotations, read with errors that name the file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception_training.data.sample import MAX_ROTATION_ERROR, check_pose


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
    """One (4, 4) pose, as `rigid_poses` does it. Raises InputError that names `place` when it is not nearly a rigid motion."""
    if matrix.shape != (4, 4):
        check_pose(matrix, place)
    return rigid_poses(matrix[None], [place])[0]


def rigid_poses(matrices: NDArray, places: Sequence[str], max_error: float = MAX_ROTATION_ERROR) -> NDArray[np.float64]:
    """The (N, 4, 4) poses with their rotations made exactly orthonormal; those that are all NaN (unknown) stay so.

    Raises InputError that names one of the N places when its matrix is no rigid motion: R R^T off identity by more than max_error, a reflection,
    another last row, or partly unknown. A sequence has thousands of poses, so they are checked together.
    """
    known = ~np.isnan(matrices).all(axis=(1, 2))
    rotations = np.where(known[:, None, None], matrices[:, :3, :3], np.eye(3))
    with np.errstate(invalid="ignore"):
        error = np.abs(rotations @ np.swapaxes(rotations, 1, 2) - np.eye(3)).max(axis=(1, 2))
        good = (error <= max_error) & (np.linalg.det(rotations) > 0) & (np.abs(matrices[:, 3] - (0, 0, 0, 1)).max(axis=1) < 1e-6)
    for row in np.flatnonzero(known & ~(good & np.isfinite(matrices).all(axis=(1, 2)))).tolist():
        check_pose(matrices[row], places[row])
    left, _, right = np.linalg.svd(rotations)
    poses = np.array(matrices, np.float64)
    poses[known, :3, :3] = (left @ right)[known]
    return poses
