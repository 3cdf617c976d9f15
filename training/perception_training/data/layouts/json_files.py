"""Annotation files in JSON, with errors that name file and entry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError


def read_json(path: Path, kind: type[dict] | type[list]) -> Any:
    """The content of a JSON file whose outermost value is an object (dict) or an array (list). Raises InputError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"annotation {path}: cannot be read ({error.strerror or 'no such file'})") from error
    except ValueError as error:
        raise InputError(f"annotation {path}: is no valid JSON ({error}): damaged or truncated") from error
    if not isinstance(content, kind):
        raise InputError(f"annotation {path}: holds a {type(content).__name__} outermost; must be a {kind.__name__}")
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
