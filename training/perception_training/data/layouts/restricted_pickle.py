"""Pickles that hold nothing but NumPy arrays in dicts, lists and tuples, read without running anything that a pickle may ask for.

An ordinary unpickler calls whatever a file names. This one knows the few names of NumPy's array format and answers each with a class of its own
that checks what it is given: neither NumPy nor any other code is reached by names from the file. Everything else is refused by name.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

_KINDS = "biuf"
"""Booleans, integers, floating point numbers; no objects, no records."""


def read_array_pickle(path: Path) -> Any:
    """The dicts, lists, tuples, numbers, strings and arrays of a pickle of any protocol. Arrays may be read-only.

    Raises InputError that names the file when it is missing, damaged, or names anything but NumPy's arrays.
    """
    try:
        with path.open("rb") as stream:
            return _plain(_ArrayUnpickler(stream, path).load())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"pickle {path}: cannot be read ({error.strerror or 'no such file'})") from error
    except Exception as error:  # a damaged pickle can raise nearly anything, and nothing but our own classes runs here
        raise InputError(f"pickle {path}: is damaged or truncated ({type(error).__name__}: {error})") from error


class _Dtype:
    """Stands for numpy.dtype: a plain number type."""

    def __init__(self, code: str, *_flags: object) -> None:
        self.plain = np.dtype(str(code))
        if self.plain.kind not in _KINDS:
            raise ValueError(f"array of type {code!r}")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.plain = self.plain.newbyteorder(state[1])


class _Array:
    """Stands for the array that numpy's _reconstruct makes and __setstate__ fills."""

    def __init__(self, *_empty: object) -> None:
        self.values: NDArray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype):
            raise ValueError("array without a number type")
        flat = np.frombuffer(content.encode("latin1") if isinstance(content, str) else bytes(content), dtype.plain)
        self.values = flat.reshape(shape, order="F" if is_fortran else "C")


class _FromBuffer(_Array):
    """Stands for numpy's _frombuffer, which protocol 5 uses; `axes` since NumPy 2, for arrays whose axes are stored in another order."""

    def __init__(self, content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None) -> None:
        values = np.frombuffer(content, dtype.plain).reshape(shape, order="F" if order == "F" else "C")
        self.values = values if axes is None else values.transpose(axes)


class _Scalar:
    """Stands for numpy's scalar."""

    def __init__(self, dtype: _Dtype, content: Any) -> None:
        self.value = np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.plain)[0]


class _Latin1(bytes):
    """Stands for _codecs.encode and, when there are none, for bytes: how protocols 0 to 2 write bytes; only with the one encoding that they use."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> _Latin1:
        if encoding != "latin1":
            raise ValueError(f"bytes encoded as {encoding!r}")
        return super().__new__(cls, text.encode("latin1"))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
    ("__builtin__", "bytes"): _Latin1,
    ("builtins", "bytes"): _Latin1,
} | {
    (f"{package}.{module}", name): stand_in
    for package in ("numpy.core", "numpy._core")
    for module, name, stand_in in (("multiarray", "_reconstruct", _Array), ("multiarray", "scalar", _Scalar), ("numeric", "_frombuffer", _FromBuffer))
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, stream: Any, path: Path) -> None:
        # latin1: how NumPy asks that arrays pickled by Python 2 be read
        super().__init__(stream, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(f"pickle {self._path}: asks for {module}.{name}; refused: only NumPy arrays in dicts, lists and tuples are read")
        return _ALLOWED[module, name]


def _plain(value: Any) -> Any:
    """The containers with arrays in place of what stood for them."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("array without content")
        return value.values
    if isinstance(value, _Scalar):
        return value.value
    if isinstance(value, _Latin1):
        return bytes(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes, bytearray)):
        return value
    raise ValueError(f"holds a {type(value).__name__}")
