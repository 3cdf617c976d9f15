"""A dense network opened on any backend: which backends and number types there are on this machine, and where exported graphs lie."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perception.backends.backend import Backend, BackendOptions, IoSpec, TensorSpec, open_backend
from perception.core.devices import multiplies_bfloat16
from perception.core.errors import ConfigError
from perception.models.weights import cache_dir

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS: dict[str, tuple[str, ...]] = {
    "torch": ("float32", "bfloat16", "float16"),
    "torch_compiled": ("float32", "bfloat16", "float16"),
    "onnxruntime": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
    "tensorrt": ("float32", "float16", "bfloat16", "int8", "float8"),
    "tensorrt_rtx": ("float32", "float16", "bfloat16", "int8", "float8"),
}
"""Number types that each backend takes. int8 stands for a quantised graph; what is not int8 in it is bfloat16 where hardware and backend have it."""
ENGINE_BACKENDS = ("tensorrt", "tensorrt_rtx")
"""Those that run what `perception export` built, and build nothing themselves."""
ENGINE_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "float8": "fp8"}
"""Number types as `perception export` calls them."""


@dataclass(frozen=True)
class GraphCase:
    """One way to run a network on images of one size. precision: a name in PRECISIONS."""

    backend: str
    precision: str
    height: int
    width: int
    batch: int = 1

    @property
    def title(self) -> str:
        """Such as "openvino bfloat16"."""
        return f"{self.backend} {self.precision}"


def auto_precision(backend: str, device: torch.device) -> str:
    """What `precision: auto` means: bfloat16 where backend and hardware have it, else float32."""
    return "bfloat16" if "bfloat16" in PRECISIONS.get(backend, ()) and multiplies_bfloat16(device) else "float32"


def check_precision(backend: str, precision: str) -> None:
    """Raise ConfigError where a backend does not take a precision."""
    allowed = PRECISIONS.get(backend)
    if allowed is not None and precision not in ("auto", *allowed):
        raise ConfigError(f"precision = {precision!r}: backend {backend} takes auto, {', '.join(allowed[:-1])} or {allowed[-1]}")


def why_not(backend: str, device: torch.device) -> str:
    """Why a backend cannot run here, with what mends it; empty where it can."""
    module = {"onnxruntime": "onnxruntime", "openvino": "openvino"}.get(backend)
    if module and importlib.util.find_spec(module) is None:
        return f"not installed; pip install {module}"
    if backend in ENGINE_BACKENDS and device.type != "cuda":
        return "needs a CUDA device"
    if backend == "openvino" and device.type != "cpu":
        return "runs on the CPU only"
    if backend == "onnxruntime" and device.type == "cuda":
        from perception.backends.onnxruntime_backend import providers

        if "CUDAExecutionProvider" not in providers():
            return "this onnxruntime has no CUDA; pip install onnxruntime-gpu"
    if backend == "torch_compiled" and device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "needs a C++ compiler; apt install g++"
    return ""


def graph_path(network: nn.Module, name: str, case: GraphCase) -> Path:
    """The exported float32 graph of a case, from the cache or written now (seconds); the same one for all sizes where the network allows that.
    `network` must be in float32 and prepared for the size."""
    from perception.backends.onnx_export import export_onnx

    path = _cached_path(network, name, case)
    if not path.is_file():
        try:
            export_onnx(network, _examples(network, case), path)
        except OSError as error:
            raise ConfigError(f"cache {path.parent}: cannot be written ({error.strerror}); set PERCEPTION_CACHE to a folder of yours") from error
    return path


def _examples(network: Any, case: GraphCase) -> list[torch.Tensor]:
    """Of the case; of a network whose graph serves all sizes, two that differ in every side but the colours."""
    unit, shapes = network.multiple_px, [(case.batch, 3, case.height, case.width)]
    if network.any_size:
        shapes = [(1, 3, 4 * unit, 6 * unit), (2, 3, 5 * unit, 3 * unit)]
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(*shape, generator=generator) for shape in shapes]


def _cached_path(network: nn.Module, name: str, case: GraphCase) -> Path:
    from perception.backends.onnx_export import export_key

    return cache_dir() / "graphs" / f"{export_key(network, name, _examples(network, case))}.onnx"


def int8_path(network: nn.Module, name: str, case: GraphCase) -> Path:
    """Where the int8 form of a case's graph lies, if it was ever calibrated. `network` as for `graph_path`."""
    graph = _cached_path(network, name, case)
    return graph.with_name(f"{graph.stem}-int8.onnx")


def engine_folder_path(name: str, backend: str, precision: str, image_size: tuple[int, int], max_batch: int) -> Path:
    """Where `perception export` writes unless it is said otherwise. name: of the extractor · precision: fp32, fp16, bf16 or int8."""
    height, width = image_size
    readable = re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).strip("_")
    return cache_dir() / "engines" / f"{readable}-{backend}-{precision}-{height}x{width}-b{max_batch}"


def _open_engine(network: nn.Module, name: str, case: GraphCase, device: torch.device) -> Backend:
    """The engine that `perception export` built of this network, with these weights."""
    from perception.backends.engine_folder import read_record
    from perception.backends.onnx_export import weights_digest

    precision = ENGINE_PRECISIONS[case.precision]
    folder = engine_folder_path(name, case.backend, precision, (case.height, case.width), case.batch)
    command = f"perception export MODEL --backend {case.backend} --precision {precision} --image-size {case.height} {case.width}"
    if not folder.is_dir():
        raise ConfigError(f"backend = {case.backend!r}: no engine of {name} for {case.width}x{case.height} px in {folder}; {command}")
    if read_record(folder).weights != weights_digest(network).hexdigest():
        raise ConfigError(f"backend = {case.backend!r}: {folder} was built from other weights of {name}; {command}")
    return open_backend(case.backend, folder, BackendOptions(device))


def open_case(network: nn.Module, name: str, case: GraphCase, device: torch.device, own_copy: bool = False) -> Backend:
    """The network on a backend, for inputs `image` (batch, 3, height, width) float32 and outputs `tokens`.

    own_copy: leaves `network` as it is, where a torch backend would change its number type. Raises ConfigError, WeightsError or
    MissingDependencyError.
    """
    check_precision(case.backend, case.precision)
    reason = why_not(case.backend, device)
    if reason:
        raise ConfigError(f"backend = {case.backend!r}: {reason}")
    prepared: Any = network
    prepared.prepare(case.height, case.width)
    if case.backend in ("torch", "torch_compiled"):
        module = copy.deepcopy(network) if own_copy else network
        return open_backend(case.backend, module, BackendOptions(device, DTYPES[case.precision], io_spec=_spec(prepared, case)))
    if case.backend in ENGINE_BACKENDS:
        return _open_engine(network, name, case, device)
    if case.precision == "int8":
        from perception.backends.quantisation import read_quantised

        path = int8_path(network, name, case)
        read_quantised(path)
    else:
        path = graph_path(network, name, case)
    return open_graph(path, case, device)


def open_graph(path: Path, case: GraphCase, device: torch.device) -> Backend:
    """An exported graph of a dense network, plain or int8, for the images of a case."""
    dtype = DTYPES[auto_precision(case.backend, device) if case.precision == "int8" else case.precision]
    shape = (case.batch, 3, case.height, case.width)
    options = BackendOptions(device, dtype, num_threads=torch.get_num_threads(), input_shape=shape, are_descriptors=True)
    return open_backend(case.backend, path, options)


def _spec(network: Any, case: GraphCase) -> IoSpec:
    image = TensorSpec("image", torch.float32, (case.batch, 3, case.height, case.width))
    return IoSpec((image,), (TensorSpec("tokens", torch.float32, (case.batch, network.dim, None, None)),))
