"""A network as a folder that runs without torch's modules: graph, engine, record of its accuracy. What `perception export` does.

Adapters are merged when the extractor is made, and what depends on the image size only (position embeddings) is worked out before the export.
Other networks are exported in the parts that `network_graphs` names.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

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
    weights_digest,
    write_graph,
)
from perception.backends.quantisation import Form, check_number, quantise
from perception.core.errors import ConfigError, WeightsError
from perception.core.timing import Stopwatch
from perception.models.graph_backends import engine_folder_path
from perception.models.graph_part import GraphPart, Run, extractor_part
from perception.models.network_extractor import DenseNetwork, NetworkExtractor

MIN_MEAN_COSINE: dict[EnginePrecision, float] = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.995, "int8": 0.98, "fp8": 0.98}
"""An export whose descriptors agree less with the float32 network, on average over all cells, is refused."""
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32, "fp8": torch.float32}
_TIMED_S, _MAX_TIMED_RUNS = 1.0, 20
_COMPARED_S, _FEWEST_COMPARED = 5.0, 2
"""A network that takes longer than that for the images so far is compared on no more of them, but on two at least; one that takes longer for one
image is not run again to be timed."""
_ENGINES = ("tensorrt", "tensorrt_rtx")
CALIBRATED = ("int8", "fp8")
"""Number types whose ranges must be seen on images."""


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
    _check_choice(settings)


def _check_choice(settings: ExportSettings) -> None:
    if settings.max_batch < 1:
        raise ConfigError(f"max_batch = {settings.max_batch}: must be at least 1")
    if settings.backend == "openvino" and settings.precision == "fp16":
        raise ConfigError("precision = 'fp16': backend openvino computes in fp32, bf16 or int8 on a CPU")
    if settings.precision == "fp8" and settings.backend not in _ENGINES:
        raise ConfigError(f"precision = 'fp8': is for backends {' and '.join(_ENGINES)}; on a CPU take int8")


def export_network(
    extractor: NetworkExtractor,
    settings: ExportSettings,
    checks: Callable[[], CheckImages],
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[EngineRecord, bool]:
    """Export the network of an extractor; as `export_part`. Raises ConfigError for settings that do not fit too."""
    check_settings(extractor.network, settings)
    return export_part(extractor_part(extractor, settings.image_size), settings, checks, folder, say)


def export_part(
    part: GraphPart,
    settings: ExportSettings,
    checks: Callable[[], CheckImages],
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[EngineRecord, bool]:
    """Export to `folder`; the record and whether anything had to be done. `checks` is called only then; `say` gets each stage.

    Raises ConfigError for settings that do not fit, WeightsError where the export differs from torch or a library refuses it.
    """
    _check_choice(settings)
    if settings.precision in CALIBRATED and part.extractor is None:
        raise ConfigError(
            f"precision = {settings.precision!r}: is for extractors, which are calibrated on images; this network takes fp32, fp16 or bf16"
        )
    settings = replace(settings, max_batch=part.max_rows or settings.max_batch)
    versions, targets = _versions(settings.backend), _targets(settings, part)
    gpu = gpu_identity() if settings.backend == "tensorrt" else ""
    digest = weights_digest(part.module)
    weights = str(digest.hexdigest())
    key = _key(digest, part, settings, versions, (gpu, *targets))
    if is_current(folder, key):
        return read_record(folder), False
    images = checks()
    if settings.precision in CALIBRATED:
        check_number(images.images)
    job = _Export(part, settings, [_fitted(image, settings.image_size) for image in images.images], images.source, say)
    with new_folder(folder) as partial:
        record = job.record(key, weights, versions, gpu, targets)
        write_record(partial, job.write(partial, record))
        record = read_record(partial)
    return record, True


@dataclass
class _Export:
    """One export under way: `pixels` are (1, 3, height, width) float32."""

    part: GraphPart
    settings: ExportSettings
    pixels: list[torch.Tensor]
    source: str
    say: Callable[[str], None]

    @cached_property
    def runs(self) -> list[Run]:
        """What may be compared; in fact so many as `expected` has."""
        return self.part.runs(self.pixels, self.settings.max_batch)

    @cached_property
    def expected(self) -> list[dict[str, torch.Tensor]]:
        """What the float32 network gives."""
        found: list[dict[str, torch.Tensor]] = []
        begin = time.perf_counter()
        for inputs in self.runs:
            if len(found) >= _FEWEST_COMPARED and time.perf_counter() - begin > _COMPARED_S:
                break
            found.append(self.part.run(self.part.module, inputs))
        if not any(value.any() for outputs in found for value in outputs.values()):
            raise WeightsError(f"export of {self.part.model}: torch gives nothing but zeros, with which nothing can be compared; give other --images")
        return found

    @property
    def compared(self) -> list[Run]:
        """The runs of `expected`."""
        return self.runs[: len(self.expected)]

    def record(self, key: str, weights: str, versions: dict[str, str], gpu: str, targets: tuple[str, ...]) -> EngineRecord:
        """The record before anything is written or measured."""
        self.say("reference by torch")
        part, settings = self.part, self.settings
        network = part.extractor.network if part.extractor is not None else None
        batch = 1 if settings.max_batch == 1 else None
        inputs, outputs = (
            tuple(TensorSpec(name, value.dtype, (batch, *value.shape[1:])) for name, value in tensors.items())
            for tensors in (self.runs[0], self.expected[0])
        )
        return EngineRecord(
            key=key,
            weights=weights,
            model=part.model,
            backend=settings.backend,
            precision=settings.precision,
            image_size=settings.image_size,
            max_batch=settings.max_batch,
            io_spec=IoSpec(inputs, outputs),
            normalisation=part.takes,
            dim=network.dim if network is not None else 0,
            stride_px=network.stride_px if network is not None else 0,
            offset_px=float(network.offset_px) if network is not None else 0.0,
            files={},
            versions=versions,
            accuracy=Accuracy(float("nan"), float("nan"), float("nan"), float("nan"), 0, "nothing yet"),
            gpu=gpu,
            targets=targets,
            left_out=part.left_out,
        )

    def write(self, folder: Path, record: EngineRecord) -> EngineRecord:
        """Graph and engine in `folder`, compared with torch; the finished record."""
        timings: dict[str, float] = {}
        with _timed(timings, "graph_s"):
            # TensorRT has no kernel for attention between int8 products, and onnxruntime 1.31 mends such graphs wrongly from opset 21 on.
            splits = self.settings.backend in _ENGINES and self.settings.precision in CALIBRATED
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
        module, thorough = self.part.in_precision(dtype), self.part.extractor is not None
        write_graph(module, self.runs[0], path, self.settings.max_batch, self.part.outputs, opset, thorough)
        if self.settings.precision in CALIBRATED:
            self.say(f"{self.settings.precision} calibration")
            full = path.with_name("float.onnx")
            shutil.move(path, full)
            form: Form = "fp8" if self.settings.precision == "fp8" else "int8_symmetric" if self.settings.backend in _ENGINES else "int8"
            quantise(full, self.pixels, path, form=form)
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
        (found, last_s), run_ms = self._outputs(runner), 0.0
        if not isinstance(runner, nn.Module):
            if self.settings.backend not in _ENGINES or torch.cuda.is_available():
                is_slow = last_s > _COMPARED_S and self.settings.max_batch == 1
                run_ms = 1e3 * last_s if is_slow else _median_ms(runner, self.runs[0])
            runner.close()
        agreement = self.part.agreement(found, self.expected)
        num_rows = sum(len(next(iter(inputs.values()))) for inputs in self.compared)
        accuracy = Accuracy(**asdict(agreement), num_images=num_rows, run_by=run_by, images=self.source)
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
            return self.part.in_precision(torch.bfloat16), f"torch in the same precision{unrun}"
        dtype = torch.float8_e4m3fn if settings.precision == "fp8" else torch.float32
        return open_backend(
            "onnxruntime", folder / GRAPH, BackendOptions(dtype=dtype, num_threads=threads)
        ), f"the graph by onnxruntime on the CPU{unrun}"

    def _outputs(self, runner: Backend | nn.Module) -> tuple[list[dict[str, torch.Tensor]], float]:
        """What the export gives, copied, and how many seconds the last run took."""
        found, watch = [], Stopwatch()
        for inputs in self.compared:
            watch.lap()
            outputs = self.part.run(runner, inputs) if isinstance(runner, nn.Module) else runner.run(inputs)
            found.append({name: value.detach().cpu().clone() for name, value in outputs.items()})
        return found, watch.lap()


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


def _targets(settings: ExportSettings, part: GraphPart) -> tuple[str, ...]:
    if settings.backend != "tensorrt_rtx":
        return ()
    from perception.backends.tensorrt_build import rtx_targets

    return rtx_targets(settings.precision, mixed=part.extractor is None)


def _key(digest: Any, part: GraphPart, settings: ExportSettings, versions: dict[str, str], hardware: tuple[str, ...]) -> str:
    """digest: of the weights, which goes on from there."""
    digest.update(f"{part.model}|{settings}|{sorted(versions.items())}|{hardware}|{OPSET}".encode())
    return str(digest.hexdigest())


def _fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, height, width) in [0, 1] of the wanted size."""
    height, width = size
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(resized)).permute(2, 0, 1)[None].to(torch.float32).div(255).contiguous()


def _median_ms(backend: Backend, inputs: Run) -> float:
    """Of a backend that has run before: once where that takes long."""
    times: list[float] = []
    begin = time.perf_counter()
    while not times or (len(times) < _MAX_TIMED_RUNS and time.perf_counter() - begin < _TIMED_S):
        start = time.perf_counter()
        if any(output.is_cuda for output in backend.run(inputs).values()):
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


class _timed:
    """`with _timed(timings, "graph_s"):` stores how long the block took."""

    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = round(time.perf_counter() - self._begin, 3)
