"""Files of weights: safetensors, torch files, and several files under one index. Nothing in them is ever executed.

A torch file is a pickle. It is read only where it holds tensors and plain values (`weights_only`); where it names other classes, `read_tensors`
refuses it, unless it is told to leave them out: then an empty class stands in for each of them, and no code of theirs is imported.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception.core.errors import WeightsError

INDEX_SUFFIX = ".index.json"
"""Hugging Face's file that says which tensor lies in which shard."""
_WRAPPERS = ("model", "state_dict", "teacher")
_NUM_NAMED = 4
_MESSAGE_LENGTH = 200
_LFS_POINTER = b"version https://git-lfs"
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_tensors(path: Path, *, shapes_only: bool = False, leave_out_others: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file, of an index.json with its shards, or of a folder with such an index.

    Unwrapped from `model`, `state_dict` or `teacher`.

    shapes_only: tensors on the device "meta", without reading the weights · leave_out_others: read a torch file that holds more than tensors as well;
    what it holds besides is left out. Raises WeightsError that names the file when it is absent, damaged, or not a plain file of tensors.
    """
    path = _index_in(path) if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path, shapes_only, leave_out_others)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, shapes_only)
    return _unwrapped(_read_torch(path, shapes_only, leave_out_others), path)


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if len(found) != 1:
        raise WeightsError(f"weights {folder}: a folder with {len(found)} files *{INDEX_SUFFIX}; give a file, or a folder with one such index")
    return found[0]


def _read_shards(path: Path, shapes_only: bool, leave_out_others: bool) -> dict[str, Tensor]:
    try:
        places = json.loads(path.read_text())["weight_map"]
        files = sorted(set(places.values()))
        foreign = [file for file in files if Path(file).name != file or file.endswith(INDEX_SUFFIX)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"weights {path}: not an index of shards ({error!r}); must have `weight_map`: name of tensor → file") from error
    if foreign or not files:
        raise WeightsError(f"weights {path}: names the shards {foreign[:_NUM_NAMED] or 'none'}; must name files beside it")
    absent = [file for file in files if not (path.parent / file).is_file()]
    if absent:
        raise WeightsError(f"weights {path}: {len(absent)} of {len(files)} shards are not beside it: {', '.join(absent[:_NUM_NAMED])}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(path.parent / file, shapes_only=shapes_only, leave_out_others=leave_out_others)
    unread = [name for name in places if name not in tensors]
    if unread:
        raise WeightsError(f"weights {path}: {len(unread)} tensors are not in their shards: {', '.join(unread[:_NUM_NAMED])}")
    return tensors


def _read_safetensors(path: Path, shapes_only: bool) -> dict[str, Tensor]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        if not shapes_only:
            return load_file(path)
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: torch.empty(part.get_shape(), dtype=_SAFETENSORS_DTYPES.get(part.get_dtype(), torch.uint8), device="meta")
                for name, part in parts.items()
            }
    except Exception as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, shapes_only: bool, leave_out_others: bool) -> Any:
    device = "meta" if shapes_only else "cpu"
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
        if others and leave_out_others:
            with torch.serialization.safe_globals([(type("Unread", (_Unread,), {}), name) for name in others]):
                return torch.load(path, map_location=device, weights_only=True)
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error, leave_out_others) from error
    except Exception as error:
        # Torch raises a dozen unrelated types for a damaged file; the first line says which.
        raise _damaged(path, error) from error


class _Unread:
    """Stands in for what a file holds beside tensors: takes whatever it is made of and keeps nothing."""

    def __new__(cls, *_values: object, **_named: object) -> _Unread:
        return object.__new__(cls)

    def __init__(self, *_values: object, **_named: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _refused(path: Path, error: Exception, leave_out_others: bool) -> WeightsError:
    """The error for a pickle that would have to be executed."""
    if not zipfile.is_zipfile(path):
        if path.read_bytes()[:1] != pickle.PROTO:
            return _damaged(path, error)
        holds, others = "", []
    else:
        others = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        holds = f" that also holds {', '.join(others[:_NUM_NAMED])}" if others else ""
    way_out = "load it where you trust it and write its tensors with safetensors.torch.save_file"
    if others and not leave_out_others:
        way_out = "`perception weights convert NAME FILE OUT.safetensors` writes its tensors alone and executes nothing"
    return WeightsError(
        f"weights {path}: not a plain file of tensors but a pickle{holds}, which is not read, as a pickle can run any code; {way_out}"
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return WeightsError(f"weights {path}: only a pointer to the file, as git leaves it without Git LFS; fetch it with `git lfs pull`")
    return WeightsError(f"weights {path}: damaged, or not a plain file of tensors ({str(error).splitlines()[0][:_MESSAGE_LENGTH]})")


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if isinstance(content, _Unread):
        raise WeightsError(f"weights {path}: holds a whole object of Python, must hold named tensors (its state_dict)")
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"weights {path}: holds {type(content).__name__}, must hold named tensors")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
