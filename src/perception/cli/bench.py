"""Measure how fast a network runs here on every backend, against this machine's peaks; `backend: auto` then takes the fastest accurate one.

All ways run in turn in each round, so that whatever else the machine does slows all alike. Writes bench.json and bench.png, and what `backend: auto`
reads into the cache.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from perception.backends.machine import this_machine
from perception.cli.export import read_images
from perception.cli.progress import Step, Steps
from perception.core.errors import ConfigError, PerceptionError, unknown_name
from perception.models.benchmarking import Outcome, default_ways, measure
from perception.models.export import CheckImages, ExportSettings, check_settings, export_folder, export_network
from perception.models.extractor import BackendName, ExtractorConfig, resolve_device
from perception.models.graph_backends import ENGINE_BACKENDS, ENGINE_PRECISIONS, GraphCase, graph_path, int8_path
from perception.models.measurements import MIN_COSINE, Measurement, fastest, read_measurements, store_measurements
from perception.models.network_extractor import NetworkExtractor
from perception.models.registry import create_extractor, network_names
from perception.models.vit_zoo import VARIANTS

_CAMERA_SIZE = (480, 640)
_VIT_SIDE_PX, _TINY_SIDE_PX = 448, 56
_NUM_IMAGES = 16
_NUM_RENDERED = 4
_TABLE_WIDTH = 160


@dataclass(frozen=True)
class Arguments:
    """Which network, how, and where the results go."""

    model: Annotated[str, tyro.conf.Positional] = "nano"
    """Name of an extractor that is a network, such as nano, alike_n or dinov2_small."""
    weights: str = ""
    """As of the extractor; `random` measures the architecture without weights (then `backend: auto` learns nothing for the trained network)."""
    image_size: tuple[int, int] = (0, 0)
    """Height and width in px, multiples of the network's patch; 0 0 takes 480 640 for convolutional networks and about 448 448 for ViTs."""
    batch: tuple[int, ...] = (1,)
    """Images at once; each is measured by itself. `backend: auto` looks at 1."""
    backends: tuple[BackendName, ...] = ()
    """Only these (torch float32 always); none: all that are installed."""
    images: str = ""
    """Bag, video or folder of images to run on and to compare on; without it and --calibrate four rendered views of a table."""
    calibrate: str = ""
    """Bag, video or folder of images: makes an int8 graph for what the robot sees, measures it with the others, and compares on these images."""
    compile: bool = False
    """Measure torch.compile too, where it takes a minute (on a CPU; on a GPU it is always measured)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs."""
    repeats: int = 20
    """Rounds."""
    threads: int = 0
    """Threads; 0: torch's own choice."""
    out: Path = Path("runs/bench")
    """Folder of bench.json and bench.png."""


def run(arguments: Arguments) -> int:
    """Prints the table and what `backend: auto` takes from now on."""
    _check(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(arguments.threads)
    device = resolve_device(arguments.device)
    extractor = _extractor(arguments)
    size = _image_size(arguments, extractor)
    steps = Steps()
    with steps.step("images") as step:
        source = arguments.calibrate or arguments.images
        pictures = _pictures(source, size)
        step.result = f"{len(pictures)} from {source}" if source else f"{len(pictures)} rendered views of a table"
    if arguments.calibrate:
        with steps.step("int8 calibration") as step:
            step.result = _calibrated(extractor, size, arguments.batch, pictures)
    ways, left_out = _ways(arguments, device, _has_int8(extractor, size, arguments.batch))
    with steps.step("measure") as step:
        cases = [GraphCase(backend, precision, *size, batch) for batch in arguments.batch for backend, precision in ways]
        refused = _build_engines(extractor, cases, pictures, step)
        # Held-out images of calibration only: every fourth was not calibrated on.
        compared = pictures[3::4] if arguments.calibrate else pictures
        outcome = measure(
            _network(extractor), extractor.name, [case for case in cases if case not in refused],
            functools.partial(_batch, compared), device, arguments.repeats, step.describe,
        )  # fmt: skip
    outcome.left_out.update({**left_out, **{case.title: reason for case, reason in refused.items()}})
    _report(arguments, steps, extractor, outcome, size, device)
    return 0


def _check(arguments: Arguments) -> None:
    if arguments.model not in network_names():
        raise unknown_name("model", arguments.model, network_names())
    if arguments.repeats < 1 or min(arguments.batch, default=0) < 1:
        raise ConfigError(f"repeats = {arguments.repeats}, batch = {list(arguments.batch)}: must be at least 1")
    if "auto" in arguments.backends:
        raise ConfigError(f"backends = {list(arguments.backends)}: must be of {', '.join(name for name in get_args(BackendName) if name != 'auto')}")


def _extractor(arguments: Arguments) -> NetworkExtractor:
    if arguments.weights == "random":
        return _random_extractor(arguments.model)
    extractor = create_extractor(ExtractorConfig(extractor=arguments.model, weights=arguments.weights, backend="torch", device="cpu"))
    assert isinstance(extractor, NetworkExtractor)
    return extractor


def _random_extractor(model: str) -> NetworkExtractor:
    """The architecture with weights of no use, under a name that no trained network has."""
    from perception.models.nano import NanoNetwork
    from perception.models.nano.network import folded
    from perception.models.vit import PatchTokens, random_model
    from perception.models.vit_zoo import FAMILIES

    config = ExtractorConfig(extractor=model, backend="torch", device="cpu")
    if model in VARIANTS:
        network = PatchTokens(random_model(VARIANTS[model], 0), FAMILIES[VARIANTS[model].family])
        return NetworkExtractor(f"{model}(random)", network, config)
    if model == "nano":
        torch.manual_seed(0)
        return NetworkExtractor("nano(random)", folded(NanoNetwork()), config)
    raise ConfigError(f"weights = 'random': must be the weights of {model}; random ones are for nano and the ViTs")


def _image_size(arguments: Arguments, extractor: NetworkExtractor) -> tuple[int, int]:
    size = arguments.image_size
    if not any(size):
        unit = extractor.network.multiple_px
        if arguments.model in VARIANTS:
            side = round((_TINY_SIDE_PX if arguments.model.startswith("tiny_") else _VIT_SIDE_PX) / unit) * unit
            size = (side, side)
        else:
            size = _CAMERA_SIZE
    check_settings(extractor.network, ExportSettings("onnx", "fp32", size))
    return size


def _pictures(source: str, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Images (height, width, 3) uint8 of the wanted size."""
    height, width = size
    if source:
        found = read_images(source, _NUM_IMAGES)
    else:
        from perception.rendering.tabletop import TabletopScene

        scene = TabletopScene(width=width, height=height, supersampling=1)
        found = [scene.render(pose).image for pose in scene.trajectory(_NUM_RENDERED)]
    return [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False) for image in found]


def _pixels(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(torch.float32).div(255).contiguous()


def _batch(pictures: Sequence[NDArray[np.uint8]], case: GraphCase) -> torch.Tensor:
    return torch.cat([_pixels(pictures[index % len(pictures)]) for index in range(case.batch)])


def _calibrated(extractor: NetworkExtractor, size: tuple[int, int], batches: Iterable[int], pictures: Sequence[NDArray[np.uint8]]) -> str:
    """int8 graphs beside the float32 ones, for every batch that needs its own; says what came of the first."""
    from perception.backends.quantisation import quantise

    network, said = _network(extractor), ""
    network.prepare(*size)  # type: ignore[operator]
    for batch in list(batches)[:1] if extractor.network.any_size else batches:
        case = GraphCase("openvino", "int8", *size, batch)
        graph = graph_path(network, extractor.name, case)
        inputs = [_batch(pictures[start:], case) for start in range(len(pictures))]
        result = quantise(graph, inputs, int8_path(network, extractor.name, case))
        said = said or f"{result.num_int8} of {result.num_products} products, cosine ≥ {result.min_cosine:.4f} on images it did not see"
    return said


def _has_int8(extractor: NetworkExtractor, size: tuple[int, int], batches: Iterable[int]) -> bool:
    """Whether there are int8 graphs of this network, from this run or an earlier one."""
    network = _network(extractor)
    network.prepare(*size)  # type: ignore[operator]
    return all(int8_path(network, extractor.name, GraphCase("openvino", "int8", *size, batch)).is_file() for batch in batches)


def _ways(arguments: Arguments, device: torch.device, int8: bool) -> tuple[list[tuple[str, str]], dict[str, str]]:
    ways, left_out = default_ways(device, arguments.compile or device.type == "cuda" or "torch_compiled" in arguments.backends, int8)
    if arguments.backends:
        ways = [way for way in ways if way[0] in arguments.backends or way == ("torch", "float32")]
        left_out = {name: reason for name, reason in left_out.items() if name in arguments.backends}
    return ways, left_out


def _build_engines(extractor: NetworkExtractor, cases: Iterable[GraphCase], pictures: list[NDArray[np.uint8]], step: Step) -> dict[GraphCase, str]:
    """Export what TensorRT and TensorRT-RTX run, where it is not there yet; those that cannot be built, with the reason."""
    refused = {}
    for case in cases:
        if case.backend in ENGINE_BACKENDS:
            settings = ExportSettings(case.backend, ENGINE_PRECISIONS[case.precision], (case.height, case.width), case.batch)  # type: ignore[arg-type]
            step.describe(f"build {case.title}")
            try:
                export_network(extractor, settings, lambda: CheckImages(pictures, "perception bench"), export_folder(extractor.name, settings))
            except PerceptionError as error:
                refused[case] = str(error)
    return refused


def _network(extractor: NetworkExtractor) -> nn.Module:
    network = extractor.network
    assert isinstance(network, nn.Module)
    return network


def _report(arguments: Arguments, steps: Steps, extractor: NetworkExtractor, outcome: Outcome, size: tuple[int, int], device: torch.device) -> None:
    from perception.viz.backend_plot import backend_plot

    (steps.console if steps.console.is_terminal else Console(width=_TABLE_WIDTH)).print(table_of(outcome.rows))
    for line in _notes(outcome):
        steps.console.print(line, highlight=False, soft_wrap=True)
    machine = this_machine()
    peaks = {"matrix_flops": outcome.matrix_flops, "memory_bytes_per_s": outcome.memory_bytes_per_s}
    content = {"machine": machine.as_dict(), "peaks": peaks, "left_out": outcome.left_out, "rows": [asdict(row) for row in outcome.rows]}
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "bench.json").write_text(json.dumps(content, indent=1) + "\n")
        title = f"{extractor.name} on {machine.gpu if device.type == 'cuda' else machine.processor}"
        (arguments.out / "bench.png").write_bytes(backend_plot(outcome.rows, title))
    except OSError as error:
        raise ConfigError(f"out = {arguments.out}: cannot be written ({error.strerror}); give another --out") from error
    stored = store_measurements(outcome.rows)
    steps.console.print(f"written: {arguments.out / 'bench.json'}, {arguments.out / 'bench.png'}, {stored}", highlight=False, soft_wrap=True)
    stride = extractor.network.stride_px
    best = fastest(read_measurements(), extractor.name, stride, device.type, size)
    if best is not None:
        eager = next(row for row in outcome.rows if row.precision == "float32" and row.backend == "torch")
        gain = f"{eager.median_ms / eager.batch / best.median_ms:.2f} times torch float32, cosine ≥ {best.min_cosine:.4f}"
        steps.console.print(f"backend: auto takes {best.backend} {best.precision}: {gain}", highlight=False, soft_wrap=True)


def table_of(rows: Sequence[Measurement]) -> Table:
    """The rows as a table; cosines below MIN_COSINE are red."""
    table = Table(pad_edge=False, box=None, header_style="bold")
    left, right = (
        ("backend", "precision", "size"),
        ("batch", "median ms", "p95 ms", "CPU ms", "frames/s", "× torch fp32", "memory MiB", "GFLOP/s", "% peak"),
    )
    for title in left:
        table.add_column(title, no_wrap=True)
    for title in (*right, "GB/s", "% memory", "min cosine", "mean cosine"):
        table.add_column(title, justify="right")
    eager = {row.batch: row.median_ms for row in rows if (row.backend, row.precision) == ("torch", "float32")}
    for row in rows:
        cosine = f"{row.min_cosine:.5f}"
        table.add_row(
            row.backend, row.precision, f"{row.width}×{row.height}", str(row.batch), f"{row.median_ms:.1f}", f"{row.p95_ms:.1f}",
            f"{row.processor_ms:.1f}",
            f"{row.frames_per_s:.3g}", f"{eager[row.batch] / row.median_ms:.2f}",
            "?" if math.isnan(row.peak_memory_mib) else f"{row.peak_memory_mib:.0f}",
            f"{row.flops / 1e9:.0f}", f"{100 * row.matrix_share:.0f}", f"{row.bytes_per_s / 1e9:.1f}", f"{100 * row.memory_share:.0f}",
            cosine if row.min_cosine >= MIN_COSINE else f"[red]{cosine}[/red]", f"{row.mean_cosine:.5f}",
        )  # fmt: skip
    return table


def _notes(outcome: Outcome) -> Iterator[str]:
    peaks = ", ".join(f"{name} {flops / 1e9:.0f} GFLOP/s" for name, flops in outcome.matrix_flops.items())
    yield f"peaks of this machine in this run: {peaks}, copy {outcome.memory_bytes_per_s / 1e9:.1f} GB/s; {torch.get_num_threads()} threads"
    for title, reason in outcome.left_out.items():
        yield f"not measured: {title}: {reason}"
