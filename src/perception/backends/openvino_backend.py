"""A graph run by OpenVINO on the CPU: an ONNX file, plain or quantised to int8. What is left of it is computed in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.backends.backend import BackendOptions, IoSpec, TensorSpec, check_inputs
from perception.core.errors import ConfigError, InputError, MissingDependencyError, WeightsError

_DTYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "f64": torch.float64,
    "u8": torch.uint8,
    "i32": torch.int32,
    "i64": torch.int64,
    "boolean": torch.bool,
}
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def _runtime() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError("backend = 'openvino': the library is not installed; pip install openvino") from error
    return openvino


@cache
def _core() -> Any:
    """The one core of the process, which never ends.

    Each core gives its thread a stack for signals and takes its memory back when it ends, also when it ends in another thread or after a younger
    one has begun. The thread's next signal that Python handles, such as the end of a child process or Ctrl-C, then ends the process with SIGSEGV.
    """
    return _runtime().Core()


class OpenVinoBackend:
    """Runs a graph on the CPU. `options.dtype` is the number type inside; inputs and outputs have the types of the graph.

    Inputs are read where they lie, and outputs of fixed shape are written to the same memory in every run.
    """

    def __init__(self, graph: object, options: BackendOptions) -> None:
        runtime = _runtime()
        path = Path(str(graph))
        if not path.is_file():
            raise WeightsError(f"graph {path}: no such file")
        if options.device.type != "cpu":
            raise ConfigError(f"device = {options.device.type!r}: backend openvino runs on the cpu only")
        if options.dtype not in _HINTS:
            raise ConfigError(f"precision = {str(options.dtype).removeprefix('torch.')!r}: backend openvino takes float32 or bfloat16 on the CPU")
        # Always asked for: without it OpenVINO would take bfloat16 wherever the processor has it.
        settings = {"INFERENCE_PRECISION_HINT": _HINTS[options.dtype], "PERFORMANCE_HINT": "LATENCY"}
        if options.num_threads:
            settings["INFERENCE_NUM_THREADS"] = str(options.num_threads)
        try:
            core = _core()
            model: Any = core.read_model(path)
            if options.input_shape is not None and model.is_dynamic():
                model.reshape({model.inputs[0]: options.input_shape})
            if options.are_descriptors:
                _put_channels_last(runtime, model, rounded=options.dtype == torch.bfloat16)
            compiled: Any = core.compile_model(model, "CPU", settings)
        except Exception as error:
            # OpenVINO raises RuntimeError with a stack of its own source lines for a damaged graph.
            raise WeightsError(f"graph {path}: OpenVINO cannot load it ({_last_line(error)})") from error
        self._path, self._is_channels_last = path, options.are_descriptors
        outputs = tuple(map(self._described, compiled.outputs))
        if self._is_channels_last:
            outputs = tuple(replace(output, shape=tuple(output.shape[side] for side in _CHANNELS_FIRST)) for output in outputs)
        self._spec = IoSpec(tuple(map(self._described, compiled.inputs)), outputs)
        self._request: Any = compiled.create_infer_request()
        self._tensor = runtime.Tensor
        self._outputs = [self._own_memory(index, tensor) for index, tensor in enumerate(self._spec.outputs)]

    def _described(self, port: Any) -> TensorSpec:
        kind = port.element_type.get_type_name()
        if kind not in _DTYPES:
            raise WeightsError(f"graph {self._path}: {port.any_name} has type {kind}; handled: {', '.join(_DTYPES)}")
        sides = (None if side.is_dynamic else side.get_length() for side in port.partial_shape)
        return TensorSpec(port.any_name, _DTYPES[kind], tuple(sides))

    def _own_memory(self, index: int, spec: TensorSpec) -> torch.Tensor | None:
        """Memory of ours for an output of fixed shape; None where the shape depends on the input."""
        if None in spec.shape:
            return None
        memory = torch.empty([int(side or 0) for side in spec.shape], dtype=spec.dtype)
        if self._is_channels_last:
            memory = memory.to(memory_format=torch.channels_last)
        written = memory.permute(_CHANNELS_LAST) if self._is_channels_last else memory
        self._request.set_output_tensor(index, self._tensor(written.numpy(), shared_memory=True))
        return memory

    @property
    def io_spec(self) -> IoSpec:
        return self._spec

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._request is None:
            raise InputError(f"graph {self._path}: closed")
        check_inputs(self._spec, inputs, f"graph {self._path}")
        arrays = {index: inputs[spec.name].detach().cpu().contiguous().numpy() for index, spec in enumerate(self._spec.inputs)}
        self._request.infer(arrays, share_inputs=True)
        return {spec.name: self._output(index) for index, spec in enumerate(self._spec.outputs)}

    def _output(self, index: int) -> torch.Tensor:
        memory = self._outputs[index]
        if memory is not None:
            return memory
        found = torch.from_numpy(np.asarray(self._request.get_output_tensor(index).data))
        return found.permute(_CHANNELS_FIRST) if self._is_channels_last else found

    def close(self) -> None:
        self._request = None


def _put_channels_last(runtime: Any, model: Any, rounded: bool) -> None:
    """Let the output (batch, channels, rows, cols) be written as convolutions make it, in place, instead of reordered.

    rounded: to bfloat16. OpenVINO computes all that follows the last product in float32, with conversions around; so a product with 1 is the last.
    """
    operations = runtime.opset13
    for result in model.get_results():
        output = result.input_value(0)
        names, channels = output.get_names(), output.get_partial_shape()[1].get_length()
        output.set_names(set())
        if rounded:
            ones = operations.constant(np.ones((channels, 1, 1, 1, 1), np.float32))
            output = operations.group_convolution(output, ones, [1, 1], [0, 0], [0, 0], [1, 1]).output(0)
        output = operations.transpose(output, operations.constant(np.array(_CHANNELS_LAST))).output(0)
        output.set_names(names)
        result.input(0).replace_source_output(output)
    model.validate_nodes_and_infer_types()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
