"""Entries of JSON annotations, with errors that name file and entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception_training.data.layouts.annotation_files import read_json


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError that names the file when it is missing, damaged or holds something else outermost."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__} outermost; must be an object")
    return content


def read_list(path: Path) -> list[Any]:
    """The array in a JSON file. Raises InputError that names the file when it is missing, damaged, empty or holds something else outermost."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: holds {'an empty list' if content == [] else f'a {type(content).__name__} outermost'}; must be a list of entries")
    return content


def entry(mapping: Any, key: str, place: str, kind: type | tuple[type, ...]) -> Any:
    """`mapping[key]`, of the given type. Raises InputError that names `place` (file and entry) when it is missing or of another type."""
    if not isinstance(mapping, dict) or key not in mapping:
        found = ", ".join(map(str, list(mapping)[:12])) if isinstance(mapping, dict) else type(mapping).__name__
        raise InputError(f"{place}: {key!r} is missing; has {found}")
    value = mapping[key]
    if not isinstance(value, kind):
        wanted = " or ".join(item.__name__ for item in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{place}: {key!r} = {value!r}: must be of type {wanted}")
    return value


def numbers(mapping: Any, key: str, place: str, shape: Sequence[int | None]) -> NDArray[np.float64]:
    """`mapping[key]` as finite float64 numbers of this shape (None: any length). Raises InputError that names `place`."""
    value = entry(mapping, key, place, (list, int, float))
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}: {key!r} = {str(value)[:80]}: must be numbers") from error
    if array.size == 0 and None in shape:
        array = array.reshape([0 if length is None else length for length in shape])
    if array.ndim != len(shape) or any(length not in (None, size) for length, size in zip(shape, array.shape, strict=True)):
        raise InputError(f"{place}: {key!r} has shape {array.shape}: must be {tuple('any' if length is None else length for length in shape)}")
    if not np.isfinite(array).all():
        raise InputError(f"{place}: {key!r} holds NaN or infinite numbers")
    return array
