"""Runs an engine folder of backends `tensorrt` and `tensorrt_rtx` on torch's CUDA memory, without copies but those over the bus.

Engines are code: before one is loaded its hash, the version of the library and the GPU are compared with the folder's record.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from perception.backends.backend import BackendOptions, IoSpec, check_inputs
from perception.backends.engine_folder import ENGINE, EngineRecord, check_gpu, check_versions, gpu_identity, read_record, verified_file
from perception.backends.runtime_cache import load_runtime_cache, runtime_cache_path, save_runtime_cache
from perception.backends.tensorrt_library import TensorRtLibrary, compute_target, load_library
from perception.core.errors import ConfigError, InputError, WeightsError

_log = logging.getLogger(__name__)
_NUM_BATCH_SIZES = 3
"""Batch sizes whose buffers are kept; each has an execution context of its own, so that captured graphs stay valid."""


class LoadedEngine:
    """An engine in the memory of a GPU; any number of backends (one for each camera) run it side by side."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self.record = checked_record(folder)
        engine_file = verified_file(folder, self.record, ENGINE)
        self.library: TensorRtLibrary = load_library(self.record.backend)
        check_versions(folder, self.record, {self.record.backend: self.library.version})
        check_gpu(folder, self.record, gpu_identity(), compute_target())
        if not torch.cuda.is_available():
            raise ConfigError(f"backend = {self.record.backend!r}: torch finds no CUDA device; use backend = 'openvino', 'onnxruntime' or 'torch'")
        self.device = device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())
        self.library.messages()
        with torch.cuda.device(self.device):
            # The engine needs its runtime as long as it lives.
            self._runtime = self.library.trt.Runtime(self.library.logger)
            self.engine = self._runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if self.engine is None:
            raise WeightsError(f"{engine_file}: {self.library.name} cannot load it ({self.library.messages()[:300]}); run `perception export` again")
        self._check_tensors()
        self._runtime_cache: Any = None
        self._num_kept_bytes = 0

    def _check_tensors(self) -> None:
        found = {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            found[name] = self.library.torch_dtype(self.engine.get_tensor_dtype(name))
        wanted = {tensor.name: tensor.dtype for tensor in (*self.record.io_spec.inputs, *self.record.io_spec.outputs)}
        if found != wanted:
            raise WeightsError(f"{self.folder}: the engine has tensors {found}, its record {wanted}; run `perception export` again")

    def new_context(self) -> Any:
        """An execution context; TensorRT-RTX captures and replays CUDA graphs by itself."""
        trt = self.library.trt
        if self.library.is_rtx and hasattr(trt, "CudaGraphStrategy"):
            config = self.engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._set_runtime_cache(config)
            context = self.engine.create_execution_context(config)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise WeightsError(
                f"{self.folder}: does not fit into the GPU's free memory ({self.library.messages()[:200]}); export with a smaller --max-batch"
            )
        return context

    def _set_runtime_cache(self, config: Any) -> None:
        """One cache of compiled kernels for all contexts, from the file of an earlier start where there is one."""
        if not hasattr(config, "create_runtime_cache"):
            return
        if self._runtime_cache is None:
            self._runtime_cache = config.create_runtime_cache()
            self._num_kept_bytes = load_runtime_cache(self._runtime_cache, self._runtime_cache_path())
        config.set_runtime_cache(self._runtime_cache)

    def keep_compiled_kernels(self) -> None:
        """To be called when a context has run for the first time."""
        if self._runtime_cache is not None:
            self._num_kept_bytes = save_runtime_cache(self._runtime_cache, self._runtime_cache_path(), self._num_kept_bytes)

    def _runtime_cache_path(self) -> Path:
        return runtime_cache_path(self.folder, self.library.version, gpu_identity())


def checked_record(folder: Path) -> EngineRecord:
    """The record of a folder that has an engine of one of the two libraries."""
    record = read_record(folder)
    if record.backend not in ("tensorrt", "tensorrt_rtx"):
        raise WeightsError(f"{folder}: was exported for backend {record.backend}; run `perception export --backend tensorrt` or `tensorrt_rtx`")
    return record


class _BatchBuffers:
    """An execution context for one batch size with its inputs, outputs and pinned host memory, all allocated once; on TensorRT also a CUDA graph."""

    def __init__(self, loaded: LoadedEngine, batch: int) -> None:
        self._context = loaded.new_context()
        self._library = loaded.library
        self._device = loaded.device
        spec = loaded.record.io_spec
        self.inputs, self.outputs = (
            {t.name: torch.empty((batch, *(side or 0 for side in t.shape[1:])), dtype=t.dtype, device=loaded.device) for t in tensors}
            for tensors in (spec.inputs, spec.outputs)
        )
        self._pinned: dict[str, torch.Tensor] = {}
        self._on_its_way = torch.cuda.Event()
        self._stream = torch.cuda.Stream(loaded.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captures = not loaded.library.is_rtx
        self.is_new = True
        for name, tensor in self.inputs.items():
            self._done(self._context.set_input_shape(name, tuple(tensor.shape)), f"set the shape of {name}")
        for name, tensor in (*self.inputs.items(), *self.outputs.items()):
            self._done(self._context.set_tensor_address(name, tensor.data_ptr()), f"set the address of {name}")

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Bring an input to the device, on the current stream; one that is the buffer itself stays where it is."""
        target = self.inputs[name]
        if tensor.device.type != "cpu":
            if tensor.data_ptr() != target.data_ptr() or tensor.stride() != target.stride():
                target.copy_(tensor, non_blocking=True)
            return
        if not tensor.is_pinned():
            if name not in self._pinned:
                self._pinned[name] = torch.empty(target.shape, dtype=target.dtype, pin_memory=True)
            else:
                self._on_its_way.synchronize()  # the last frame may still be read from here
            tensor = self._pinned[name].copy_(tensor)
        target.copy_(tensor, non_blocking=True)
        self._on_its_way.record()

    def execute(self) -> None:
        """Run on what lies in `inputs`, on the current stream; returns before it is done."""
        if self._captures and self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return
        current = torch.cuda.current_stream(self._device)
        # On the default stream the library would wait for the whole device.
        stream = current if current.cuda_stream else self._stream
        if stream is not current:
            stream.wait_stream(current)
        self._enqueue(stream)
        if stream is not current:
            current.wait_stream(stream)

    def _enqueue(self, stream: torch.cuda.Stream) -> None:
        self._done(self._context.execute_async_v3(stream.cuda_stream), "run")

    def _capture(self) -> None:
        """Record the run once; from then on one call starts all its kernels."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._enqueue(self._stream)  # the library sets things up in the first run, which cannot be captured
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other cameras' threads may go on allocating meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._enqueue(self._stream)
        except (RuntimeError, WeightsError) as error:
            _log.warning("this engine runs without a CUDA graph: %s", error)
            self._captures = False
            return
        self._graph = graph

    def _done(self, succeeded: bool, action: str) -> None:
        if not succeeded:
            raise WeightsError(f"{self._library.name}: cannot {action} ({self._library.messages()[:300]})")


class TensorRtBackend:
    """Runs an engine folder. Not safe to share between threads: take `sibling` for another camera, which shares the engine's weights.

    Outputs are CUDA tensors that belong to the backend and are valid until the next run of the same batch size; they are ready in the order of the
    stream that was current in `run`.
    """

    def __init__(self, graph: object, options: BackendOptions) -> None:
        self._loaded: LoadedEngine | None = graph if isinstance(graph, LoadedEngine) else LoadedEngine(Path(str(graph)), options.device)
        self._options = options
        self._record = self._loaded.record
        self._buffers: OrderedDict[int, _BatchBuffers] = OrderedDict()

    @property
    def io_spec(self) -> IoSpec:
        return self._record.io_spec

    def sibling(self) -> TensorRtBackend:
        """Another backend over the same engine with contexts and buffers of its own."""
        return TensorRtBackend(self._open(), self._options)

    def input_buffers(self, batch: int = 1) -> dict[str, torch.Tensor]:
        """The inputs on the device: who writes into these and hands them to `run` saves a copy."""
        with torch.cuda.device(self._open().device):
            return self._for_batch(batch).inputs

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        loaded = self._open()
        check_inputs(self._record.io_spec, inputs, f"engine {loaded.folder}")
        with torch.cuda.device(loaded.device):
            buffers = self._for_batch(len(next(iter(inputs.values()))))
            for name, tensor in inputs.items():
                buffers.fill(name, tensor)
            buffers.execute()
            if buffers.is_new:
                buffers.is_new = False
                loaded.keep_compiled_kernels()
        return buffers.outputs

    def close(self) -> None:
        self._buffers.clear()
        self._loaded = None

    def _open(self) -> LoadedEngine:
        if self._loaded is None:
            raise InputError("engine: closed")
        return self._loaded

    def _for_batch(self, batch: int) -> _BatchBuffers:
        if not 1 <= batch <= self._record.max_batch:
            raise InputError(f"engine {self._open().folder}: {batch} images at once: must be 1 to {self._record.max_batch}; export with --max-batch")
        if batch not in self._buffers:
            self._buffers[batch] = _BatchBuffers(self._open(), batch)
            while len(self._buffers) > _NUM_BATCH_SIZES:
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(batch)
        return self._buffers[batch]
