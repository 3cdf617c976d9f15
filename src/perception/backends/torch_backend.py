"""A torch module as a backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from perception.backends.backend import BackendOptions, IoSpec, check_inputs
from perception.core.errors import InputError


class TorchBackend:
    """Runs a module that takes its inputs in the order of the spec and returns one tensor or a tuple of them.

    Inputs come in the spec's dtype; inside, floating inputs and the module have `options.dtype`; outputs come back in the spec's dtype.
    """

    def __init__(self, graph: nn.Module | Path, options: BackendOptions) -> None:
        if not isinstance(graph, nn.Module):
            raise InputError(f"torch backend: graph {graph} must be a torch module")
        if options.io_spec is None:
            raise InputError("torch backend: options.io_spec must say what the module takes and gives")
        self._options = options
        self._spec = options.io_spec
        self._module: nn.Module | None = graph.eval().to(options.device, options.dtype)

    @property
    def io_spec(self) -> IoSpec:
        return self._spec

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._module is None:
            raise InputError("torch backend: closed")
        check_inputs(self._spec, inputs, "torch backend")
        with torch.inference_mode():
            outputs = self._module(*(self._placed(inputs[tensor.name]) for tensor in self._spec.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {tensor.name: output.to(tensor.dtype) for tensor, output in zip(self._spec.outputs, outputs, strict=True)}

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._options.device, self._options.dtype if tensor.is_floating_point() else tensor.dtype)

    def close(self) -> None:
        self._module = None
