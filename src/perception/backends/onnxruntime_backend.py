"""An ONNX file run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from perception.backends.backend import BackendOptions, IoSpec, TensorSpec, check_inputs, free_side_name
from perception.core.errors import ConfigError, InputError, MissingDependencyError, WeightsError

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(bool)": torch.bool,
}


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("backend = 'onnxruntime': the library is not installed; pip install onnxruntime") from error
    return onnxruntime


def providers() -> list[str]:
    """What this onnxruntime computes on, such as CPUExecutionProvider and CUDAExecutionProvider."""
    found: list[str] = _runtime().get_available_providers()
    return found


class OnnxRuntimeBackend:
    """Runs an ONNX file on the CPU, or on a CUDA device where onnxruntime has that provider."""

    def __init__(self, graph: object, options: BackendOptions) -> None:
        runtime = _runtime()
        path = Path(str(graph))
        if not path.is_file():
            raise WeightsError(f"graph {path}: no such file")
        self._path = path
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[options.device.type]
        if provider not in runtime.get_available_providers():
            raise ConfigError(f"device = {options.device.type!r}: this onnxruntime has only {', '.join(runtime.get_available_providers())}")
        session_options = runtime.SessionOptions()
        session_options.intra_op_num_threads = options.num_threads
        session_options.log_severity_level = 3
        for index, side in enumerate(options.input_shape or ()):
            session_options.add_free_dimension_override_by_name(free_side_name(index), side)
        if options.dtype == torch.float8_e4m3fn:
            # There are no products of float8 on a CPU: values are rounded to it and multiplied in float32.
            session_options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session: Any = runtime.InferenceSession(path, session_options, providers=[provider])
        except Exception as error:
            # onnxruntime raises its own unrelated types for a damaged graph.
            raise WeightsError(f"graph {path}: onnxruntime cannot load it ({str(error).splitlines()[0][:200]})") from error
        self._spec = IoSpec(tuple(map(self._described, self._session.get_inputs())), tuple(map(self._described, self._session.get_outputs())))

    def _described(self, node: Any) -> TensorSpec:
        if node.type not in _DTYPES:
            raise WeightsError(f"graph {self._path}: {node.name} has type {node.type}; handled: {', '.join(_DTYPES)}")
        return TensorSpec(node.name, _DTYPES[node.type], tuple(side if isinstance(side, int) else None for side in node.shape))

    @property
    def io_spec(self) -> IoSpec:
        return self._spec

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._session is None:
            raise InputError(f"graph {self._path}: closed")
        check_inputs(self._spec, inputs, f"graph {self._path}")
        outputs = self._session.run(None, {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()})
        return {tensor.name: torch.from_numpy(output) for tensor, output in zip(self._spec.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._session = None
