"""Checkpoints: one folder each, written beside its place and renamed when it is whole, so that what has the name is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perception.core.errors import InputError, WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.weights import load_into
from perception_training.loop.sharding import as_sharded, as_whole
from perception_training.loop.tensor_files import write_tensors

VERSION = 1
_PARTIAL = ".partial"
_STATE_FILE = "state.json"
TensorFiles = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint on disk: its folder, the number of steps done, and what `state.json` says (`step`, `world_size`, `config`, ...)."""

    folder: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The file NAME.safetensors: weights, optimiser, random, or running_mean. Raises WeightsError when it is damaged or absent."""
        return read_tensors(self.folder / f"{name}.safetensors")

    def has(self, name: str) -> bool:
        """Whether this file is there."""
        return (self.folder / f"{name}.safetensors").is_file()


def save_checkpoint(parent: Path, step: int, files: TensorFiles, state: Mapping[str, Any], keep: int) -> Path:
    """Write the checkpoint of `step`, then remove all but the `keep` newest. Raises InputError that names the last good one when the disk is full."""
    target = parent / f"step_{step:08d}"
    if target.is_dir():
        return target
    partial = target.with_name(target.name + _PARTIAL)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, tensors in files.items():
            write_tensors(partial / f"{name}.safetensors", tensors)
        _write_durably(partial / _STATE_FILE, json.dumps({"version": VERSION, "step": step, **state}, indent=1) + "\n")
        _flush_folder(partial)
        os.rename(partial, target)
        _flush_folder(parent)
    except (OSError, InputError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = latest_checkpoint(parent)
        left = f"the last good one is {last.folder}" if last is not None else "there is none before it"
        raise InputError(f"checkpoint {target}: cannot be written ({error}); {left}") from error
    for folder in _folders(parent)[:-keep]:
        _remove(folder)
    return target


def _write_durably(path: Path, content: str) -> None:
    with path.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """By another name first: a removal that is interrupted leaves nothing that looks like a checkpoint."""
    partial = folder.with_name(folder.name + _PARTIAL)
    os.rename(folder, partial)
    shutil.rmtree(partial, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("step_*") if path.is_dir() and path.suffix != _PARTIAL)


def latest_checkpoint(parent: Path) -> Checkpoint | None:
    """The newest checkpoint below `parent`; None when there is none. Raises InputError when it is of another version or damaged."""
    folders = _folders(parent)
    return open_checkpoint(folders[-1]) if folders else None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read what a checkpoint says of itself."""
    path = folder / _STATE_FILE
    try:
        state = json.loads(path.read_text())
        version, step = state["version"], int(state["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the state of a checkpoint ({error}); remove the folder to go on from the one before") from error
    if version != VERSION:
        raise InputError(f"{path}: has version {version}, must be {VERSION}")
    return Checkpoint(folder, step, state)


def frozen_names(module: nn.Module, saved: tuple[str, ...]) -> frozenset[str]:
    """Frozen parameters, which building the task gives again, but those whose name begins with an entry of `saved`."""
    names = (name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad)
    return frozenset(name for name in names if not (saved and name.startswith(saved)))


def module_tensors(module: nn.Module, without: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    """The state of `module`, whole also where it is sharded (then every rank must call)."""
    return {name: as_whole(value) for name, value in module.state_dict().items() if name not in without}


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], place: str, without: frozenset[str] = frozenset()) -> None:
    """Put back what `module_tensors` gave. Raises WeightsError that names the first keys that differ."""
    wanted = module.state_dict()
    unexpected = sorted(without & set(tensors))
    if unexpected:
        raise WeightsError(f"{place}: has weights of parameters that are frozen here, the first: {', '.join(unexpected[:4])}")
    fitting = {
        name: as_sharded(value, wanted[name]) if name in wanted and wanted[name].shape == value.shape else value for name, value in tensors.items()
    }
    load_into(module, fitting, place, tuple(without))
