"""A torch module as a backend, as it is or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perception.backends.backend import BackendOptions, IoSpec, check_inputs
from perception.core.errors import ConfigError, InputError


class TorchBackend:
    """Runs a module that takes its inputs in the order of the spec and returns one tensor or a tuple of them.

    Inputs come in the spec's dtype; inside, floating inputs and the module have `options.dtype`; outputs come back in the spec's dtype.
    In bfloat16 and float16 images lie in memory with channels last, as the convolutions for these want them.
    """

    def __init__(self, graph: nn.Module | Path, options: BackendOptions) -> None:
        if not isinstance(graph, nn.Module):
            raise InputError(f"torch backend: graph {graph} must be a torch module")
        if options.io_spec is None:
            raise InputError("torch backend: options.io_spec must say what the module takes and gives")
        self._options = options
        self._spec = options.io_spec
        self._layout = torch.contiguous_format if options.dtype == torch.float32 else torch.channels_last
        module = graph.eval().to(options.device, options.dtype)
        if options.dtype != torch.float32:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self._run: Callable[..., Any] | None = self._prepared(module)

    def _prepared(self, module: nn.Module) -> Callable[..., Any]:
        """What is called for each run."""
        return module

    @property
    def io_spec(self) -> IoSpec:
        return self._spec

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._run is None:
            raise InputError("torch backend: closed")
        check_inputs(self._spec, inputs, "torch backend")
        with torch.inference_mode():
            outputs = self._run(*(self._placed(inputs[tensor.name]) for tensor in self._spec.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {tensor.name: output.to(tensor.dtype) for tensor, output in zip(self._spec.outputs, outputs, strict=True)}

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self._options.dtype if tensor.is_floating_point() else tensor.dtype
        layout = self._layout if tensor.ndim == 4 else torch.contiguous_format
        return tensor.to(self._options.device, dtype, memory_format=layout)

    def close(self) -> None:
        self._run = None


class CompiledTorchBackend(TorchBackend):
    """The same through torch.compile: fused kernels with constant weights, and on a GPU one CUDA graph for the whole network.

    The first run compiles (tens of seconds on a CPU, which needs a C++ compiler). On a GPU outputs are copied out of the graph's memory.
    """

    def _prepared(self, module: nn.Module) -> Callable[..., Any]:
        if self._options.device.type == "cuda":
            compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)
            return lambda *inputs: _cloned(compiled(*inputs))
        return torch.compile(module, dynamic=False, options={"freezing": True})

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        try:
            return super().run(inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ConfigError(f"backend = 'torch_compiled': torch cannot compile this network here ({reason[:200]}); use 'torch'") from error


def _cloned(outputs: Any) -> Any:
    return tuple(output.clone() for output in outputs) if isinstance(outputs, tuple) else outputs.clone()
