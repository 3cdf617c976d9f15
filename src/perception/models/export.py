"""A network as a folder that runs without torch's modules: graph, engine, record of its accuracy. What `perception export` does.

Adapters are merged when the extractor is made, and what depends on the image size only (position embeddings) is worked out before the export.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.backends.backend import Backend, BackendOptions, IoSpec, TensorSpec, open_backend
from perception.backends.engine_folder import (
    ENGINE,
    GRAPH,
    Accuracy,
    EngineBackend,
    EnginePrecision,
    EngineRecord,
    gpu_identity,
    is_current,
    new_folder,
    read_record,
    sha256_of,
    write_record,
)
from perception.backends.onnx_export import (
    MAX_RELATIVE_ERROR,
    OPSET,
    SPLIT_ATTENTION_OPSET,
    Agreement,
    TypedNetwork,
    combined,
    compare,
    weights_digest,
    write_graph,
)
from perception.core.errors import ConfigError, WeightsError
from perception.models.graph_backends import engine_folder_path
from perception.models.network_extractor import DenseNetwork, NetworkExtractor

MIN_MEAN_COSINE: dict[EnginePrecision, float] = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.995, "int8": 0.98}
"""An export whose descriptors agree less with the float32 network, on average over all cells, is refused."""
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}
_NORMALISATION = "image is RGB in [0, 1]; mean and standard deviation of the network are inside the graph"
_TIMED_S, _MAX_TIMED_RUNS = 1.0, 20
_ENGINES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class ExportSettings:
    """What to export to. image_size: (height, width) in px · max_batch: images at once; above 1 the batch is free from 1 to that."""

    backend: EngineBackend
    precision: EnginePrecision
    image_size: tuple[int, int]
    max_batch: int = 1


@dataclass(frozen=True)
class CheckImages:
    """Images (height, width, 3) RGB uint8 on which the export is compared with torch, and int8 is calibrated, and where they come from."""

    images: Sequence[NDArray[np.uint8]]
    source: str


def export_folder(name: str, settings: ExportSettings) -> Path:
    """Where the export of an extractor of this name goes unless it is said otherwise."""
    return engine_folder_path(name, settings.backend, settings.precision, settings.image_size, settings.max_batch)


def check_settings(network: DenseNetwork, settings: ExportSettings) -> None:
    """Raise ConfigError for what cannot be exported."""
    unit = network.multiple_px
    if any(side < unit or side % unit for side in settings.image_size):
        near = " ".join(str(max(1, round(side / unit)) * unit) for side in settings.image_size)
        raise ConfigError(
            f"image_size = {' '.join(map(str, settings.image_size))}: sides must be multiples of {unit} px for this network; nearest: {near}"
        )
    if settings.max_batch < 1:
        raise ConfigError(f"max_batch = {settings.max_batch}: must be at least 1")
    if settings.backend == "openvino" and settings.precision == "fp16":
        raise ConfigError("precision = 'fp16': backend openvino computes in fp32, bf16 or int8 on a CPU")


def export_network(
    extractor: NetworkExtractor,
    settings: ExportSettings,
    checks: Callable[[], CheckImages],
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[EngineRecord, bool]:
    """Export to `folder`; the record and whether anything had to be done. `checks` is called only then; `say` gets each stage.

    Raises ConfigError for settings that do not fit, WeightsError where the export differs from torch or a library refuses it.
    """
    check_settings(extractor.network, settings)
    versions, targets = _versions(settings.backend), _targets(settings)
    gpu = gpu_identity() if settings.backend == "tensorrt" else ""
    key = _key(extractor, settings, versions, (gpu, *targets))
    if is_current(folder, key):
        return read_record(folder), False
    images = checks()
    pixels = [_fitted(image, settings.image_size) for image in images.images]
    job = _Export(extractor, settings, pixels, images.source, say)
    with new_folder(folder) as partial:
        record = job.record(key, versions, gpu, targets)
        write_record(partial, job.write(partial, record))
        record = read_record(partial)
    return record, True


@dataclass
class _Export:
    """One export under way: `pixels` are (1, 3, height, width) float32."""

    extractor: NetworkExtractor
    settings: ExportSettings
    pixels: list[torch.Tensor]
    source: str
    say: Callable[[str], None]

    def record(self, key: str, versions: dict[str, str], gpu: str, targets: tuple[str, ...]) -> EngineRecord:
        """The record before anything is written or measured."""
        network, (height, width) = self.extractor.network, self.settings.image_size
        batch = 1 if self.settings.max_batch == 1 else None
        expected = self._expected()[0]
        spec = IoSpec(
            (TensorSpec("image", torch.float32, (batch, 3, height, width)),),
            (TensorSpec("tokens", torch.float32, (batch, *expected.shape[1:])),),
        )
        settings = self.settings
        return EngineRecord(
            key=key,
            weights=weights_digest(self._network()).hexdigest(),
            model=self.extractor.name,
            backend=settings.backend,
            precision=settings.precision,
            image_size=settings.image_size,
            max_batch=settings.max_batch,
            io_spec=spec,
            normalisation=_NORMALISATION,
            dim=network.dim,
            stride_px=network.stride_px,
            offset_px=float(network.offset_px),
            files={},
            versions=versions,
            accuracy=Accuracy(float("nan"), float("nan"), float("nan"), float("nan"), 0, "nothing yet"),
            gpu=gpu,
            targets=targets,
        )

    def write(self, folder: Path, record: EngineRecord) -> EngineRecord:
        """Graph and engine in `folder`, compared with torch; the finished record."""
        timings: dict[str, float] = {}
        with _timed(timings, "graph_s"):
            # TensorRT has no kernel for attention between int8 products, and onnxruntime 1.31 mends such graphs wrongly from opset 21 on.
            splits = self.settings.backend in _ENGINES and self.settings.precision == "int8"
            self._graph(folder / GRAPH, SPLIT_ATTENTION_OPSET if splits else OPSET)
        if self.settings.backend in _ENGINES:
            with _timed(timings, "engine_s"):
                self._engine(folder, record)
        files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        record = replace(record, files=files, timings=timings)
        with _timed(timings, "check_s"):
            accuracy, run_ms = self._checked(folder, record)
        return replace(record, accuracy=accuracy, timings={**timings, **({"run_ms": run_ms} if run_ms else {})})

    def _graph(self, path: Path, opset: int) -> None:
        self.say("graph")
        dtype = torch.float32 if self.settings.backend == "openvino" else _DTYPES[self.settings.precision]
        write_graph(TypedNetwork(self._network(), dtype), self.pixels[0], path, self.settings.max_batch, opset=opset)
        if self.settings.precision == "int8":
            from perception.backends.quantisation import quantise

            self.say("int8 calibration")
            full = path.with_name("float.onnx")
            shutil.move(path, full)
            quantise(full, self.pixels, path, symmetric=self.settings.backend in _ENGINES)
            full.unlink()

    def _engine(self, folder: Path, record: EngineRecord) -> None:
        from perception.backends.tensorrt_build import AttentionKernelError, build_engine
        from perception.backends.tensorrt_library import load_library

        self.say("engine")
        library = load_library(self.settings.backend)
        graph, engine, exact = folder / GRAPH, folder / ENGINE, self.settings.precision == "fp32"
        try:
            build_engine(library, graph, engine, self.settings.max_batch, record.targets, exact)
        except AttentionKernelError:
            # Not every width and number type has a kernel for attention in one piece.
            self._graph(graph, SPLIT_ATTENTION_OPSET)
            build_engine(library, graph, engine, self.settings.max_batch, record.targets, exact)

    def _checked(self, folder: Path, record: EngineRecord) -> tuple[Accuracy, float]:
        """The accuracy and the median time of one image in ms (0 where nothing was run). Raises WeightsError beyond the stated bounds."""
        self.say("comparison with torch")
        runner, run_by = self._runner(folder, record)
        expected = self._expected()
        found, run_ms = self._outputs(runner), 0.0
        if not isinstance(runner, nn.Module):
            if self.settings.backend not in _ENGINES or torch.cuda.is_available():
                run_ms = _median_ms(runner, self.pixels[0])
            runner.close()
        agreement = combined([compare(*pair) for pair in zip(found, expected, strict=True)])
        accuracy = Accuracy(**asdict(agreement), num_images=len(expected), run_by=run_by, images=self.source)
        _refuse_beyond_bounds(record, agreement, run_by)
        return accuracy, run_ms

    def _runner(self, folder: Path, record: EngineRecord) -> tuple[Backend | nn.Module, str]:
        """What runs the export here, and how that is called in the record."""
        settings, threads = self.settings, torch.get_num_threads()
        if settings.backend in _ENGINES and torch.cuda.is_available():
            write_record(folder, record)
            return open_backend(settings.backend, folder), f"{settings.backend} {record.versions[settings.backend]} on {gpu_identity()}"
        unrun = "; the engine was not run: no GPU" if settings.backend in _ENGINES else ""
        if settings.backend == "openvino":
            dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
            return open_backend("openvino", folder / GRAPH, BackendOptions(dtype=dtype, num_threads=threads)), "openvino on the CPU"
        if settings.precision == "bf16":
            # No runtime on a CPU takes bfloat16 graphs.
            return TypedNetwork(self._network(), torch.bfloat16), f"torch in the same precision{unrun}"
        return open_backend("onnxruntime", folder / GRAPH, BackendOptions(num_threads=threads)), f"the graph by onnxruntime on the CPU{unrun}"

    def _outputs(self, runner: Backend | nn.Module) -> list[torch.Tensor]:
        """The first image alone, the others as many at once as the graph takes, copied; one (1, dim, rows, cols) for each image."""
        size = self.settings.max_batch
        parts = [self.pixels[:1], *(self.pixels[start : start + size] for start in range(1, len(self.pixels), size))]
        found: list[torch.Tensor] = []
        for part in parts:
            image = torch.cat(part)
            with torch.inference_mode():
                output = runner(image) if isinstance(runner, nn.Module) else runner.run({"image": image})["tokens"]
            found += list(output.detach().cpu().clone().split(1))
        return found

    def _expected(self) -> list[torch.Tensor]:
        """What the float32 network gives."""
        network = self._network()
        with torch.inference_mode():
            return [network(image) for image in self.pixels]

    def _network(self) -> nn.Module:
        network = self.extractor.network
        assert isinstance(network, nn.Module)
        network.prepare(*self.settings.image_size)  # type: ignore[operator]
        return network.eval()


def _refuse_beyond_bounds(record: EngineRecord, agreement: Agreement, run_by: str) -> None:
    bound = MIN_MEAN_COSINE[record.precision]
    exact = record.precision == "fp32"
    if agreement.mean_cosine >= bound and (not exact or agreement.max_share <= MAX_RELATIVE_ERROR):
        return
    allowed = f"a mean cosine of {bound}" + (f" and {MAX_RELATIVE_ERROR:g} of the largest output" if exact else "")
    raise WeightsError(
        f"export of {record.model} to {record.backend} {record.precision}: mean cosine {agreement.mean_cosine:.5f}, largest error "
        f"{agreement.max_share:.2g} of the largest output (by {run_by}): beyond {allowed}; nothing was written, use a finer --precision"
    )


def _versions(backend: EngineBackend) -> dict[str, str]:
    """Of the libraries that decide what comes out. Raises MissingDependencyError where the backend's own is absent."""
    found = {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "onnxslim", "openvino") if _is_installed(name)}
    if backend in _ENGINES:
        from perception.backends.tensorrt_library import load_library

        found[backend] = load_library(backend).version
    if backend != "openvino":
        found.pop("openvino", None)
    return found


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _targets(settings: ExportSettings) -> tuple[str, ...]:
    if settings.backend != "tensorrt_rtx":
        return ()
    from perception.backends.tensorrt_build import rtx_targets

    return rtx_targets(settings.precision)


def _key(extractor: NetworkExtractor, settings: ExportSettings, versions: dict[str, str], hardware: tuple[str, ...]) -> str:
    network = extractor.network
    assert isinstance(network, nn.Module)
    digest = weights_digest(network)
    digest.update(f"{extractor.name}|{settings}|{sorted(versions.items())}|{hardware}|{OPSET}".encode())
    return str(digest.hexdigest())


def _fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, height, width) in [0, 1] of the wanted size."""
    height, width = size
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1)[None].to(torch.float32).div(255).contiguous()


def _median_ms(backend: Backend, image: torch.Tensor) -> float:
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < _MAX_TIMED_RUNS and (len(times) < 3 or time.perf_counter() - begin < _TIMED_S):
        start = time.perf_counter()
        output = backend.run({"image": image})["tokens"]
        if output.is_cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


class _timed:
    """`with _timed(timings, "graph_s"):` stores how long the block took."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = round(time.perf_counter() - self._begin, 3)
