"""Files of named tensors (safetensors), written beside their target and renamed when they are whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from perception.core.errors import InputError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors`, flushed to the disk; parent folders are made. Raises InputError that names the file when the disk is full or forbids it;
    what lay there before is then still there."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: _own_memory(tensor) for name, tensor in tensors.items()}, partial, dict(metadata) if metadata is not None else None)
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error})") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _own_memory(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous and sharing memory with no other tensor (safetensors refuses tied weights)."""
    return torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format).copy_(tensor.detach())
