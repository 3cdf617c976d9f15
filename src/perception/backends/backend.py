"""Running a fixed graph: three members, whatever the runtime. `open_backend` picks it by name and imports it late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from perception.core.errors import InputError, unknown_name

BACKENDS: dict[str, str] = {
    "torch": "perception.backends.torch_backend:TorchBackend",
    "torch_compiled": "perception.backends.torch_backend:CompiledTorchBackend",
    "onnxruntime": "perception.backends.onnxruntime_backend:OnnxRuntimeBackend",
    "tensorrt": "perception.backends.tensorrt_backend:TensorRtBackend",
    "tensorrt_rtx": "perception.backends.tensorrt_backend:TensorRtBackend",
    "openvino": "perception.backends.openvino_backend:OpenVinoBackend",
}
"""Name → "module:class"; the class takes the graph and a BackendOptions."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: shape with None where a side is free."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = ", ".join("any" if side is None else str(side) for side in self.shape)
        return f"{self.name} ({sides}) {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class IoSpec:
    """What a graph takes and gives, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class BackendOptions:
    """Device, number type of the torch graph (float8_e4m3fn tells onnxruntime that its graph has such), threads of the runtime (0: its own),
    the spec of a torch module, which has none itself, and the shape of the only input where an ONNX graph leaves sides of it free: fixed before the
    graph is made ready, they cost nothing (None: they stay free). are_descriptors: the only output is a map of descriptors (batch, channels, rows,
    cols), which may be rounded to `dtype` and lie channels last in memory where that is faster."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    num_threads: int = 0
    io_spec: IoSpec | None = None
    input_shape: tuple[int, ...] | None = None
    are_descriptors: bool = False


class Backend(Protocol):
    """A loaded graph."""

    @property
    def io_spec(self) -> IoSpec:
        """Names, dtypes and shapes of inputs and outputs."""

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All outputs by name, valid until the next run. A wrong name, dtype or shape is an InputError."""

    def close(self) -> None:
        """Free the graph; it cannot run any more."""


def open_backend(name: str, graph: nn.Module | Path, options: BackendOptions | None = None) -> Backend:
    """Load a graph: a module for `torch`, an ONNX file for `onnxruntime`, a folder of `perception export` for `tensorrt` and `tensorrt_rtx`."""
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    module, cls = BACKENDS[name].split(":")
    backend: Backend = getattr(import_module(module), cls)(graph, options or BackendOptions())
    return backend


def free_side_name(index: int) -> str:
    """What side `index` of the input is called in a graph that leaves it free."""
    return f"side_{index}"


def check_inputs(spec: IoSpec, inputs: Mapping[str, torch.Tensor], place: str) -> None:
    """Raise InputError where `inputs` are not what `spec` says."""
    names = [tensor.name for tensor in spec.inputs]
    if sorted(names) != sorted(inputs):
        raise InputError(f"{place}: inputs {sorted(inputs)}: must be {names}")
    for tensor in spec.inputs:
        found = inputs[tensor.name]
        fits = len(found.shape) == len(tensor.shape) and all(want in (None, have) for want, have in zip(tensor.shape, found.shape, strict=True))
        if not fits or found.dtype != tensor.dtype:
            raise InputError(f"{place}: input {tensor.name} has shape {tuple(found.shape)} and type {found.dtype}: must be {tensor}")
