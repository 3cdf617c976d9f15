"""Export a network for onnxruntime, OpenVINO, TensorRT or TensorRT-RTX into one folder, compared with torch before anything is written.

Position embeddings and adapters are folded in. What already lies there and was made from the same things is left alone. An extractor runs an engine
from its usual place with `backend: tensorrt` or `tensorrt_rtx`. Other networks (pi3, dust3r_512_dpt, cotracker3_offline, …) become one folder for
each part that is a graph; the record says what is left to torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.table import Table

from perception.backends.engine_folder import EngineBackend, EnginePrecision, EngineRecord
from perception.cli.progress import Steps
from perception.core.errors import ConfigError, InputError
from perception.io.bag_messages import COMPRESSED_IMAGE, IMAGE
from perception.io.bags import BagReader
from perception.io.images import list_images, read_image
from perception.io.videos import VIDEO_SUFFIXES, VideoReader
from perception.models.export import CALIBRATED, CheckImages, ExportSettings, check_settings, export_folder, export_part
from perception.models.extractor import ExtractorConfig
from perception.models.graph_part import GraphPart, extractor_part
from perception.models.network_extractor import NetworkExtractor
from perception.models.network_graphs import GRAPHS, fill_zeros, network_parts
from perception.models.networks import create_network, network_spec
from perception.models.registry import create_extractor, network_names
from perception.models.weights import file_sha256

_NUM_RENDERED = 4
_HASH_LENGTH = 8
_NUM_CALIBRATION_READ = 400
"""Frames of a bag from which those for calibration are taken."""


@dataclass(frozen=True)
class Arguments:
    """What to export, to what, and on which images it is compared."""

    model: Annotated[str, tyro.conf.Positional]
    """Name of an extractor that is a network, such as nano, alike_n or dinov2_small, or of another network, such as pi3 or dust3r_512_linear."""
    backend: EngineBackend
    """onnx and openvino run on the CPU, tensorrt on the GPU it is built on, tensorrt_rtx on RTX cards and built anywhere."""
    image_size: tuple[int, int]
    """Height and width in px, multiples of the network's patch."""
    precision: EnginePrecision = "fp32"
    """Number type. int8 and fp8 (tensorrt and tensorrt_rtx from Ada on) are calibrated on the images of --calibrate."""
    max_batch: int = 1
    """Images at once; above 1 the engine takes any number from 1 to that. For pi3 and trajvg frames of a clip, for dust3r pairs, for stdit clips."""
    weights: str = ""
    """Weights of the network: a file (of an extractor also what its own `weights` takes). Without it an extractor's own, and of other networks
    none: the export then shows how fast and how large it is."""
    config: str = ""
    """Sizes of a network that is no extractor, such as tiny; empty: the published ones."""
    images: str = ""
    """Images to compare on: a folder, a video or a bag. Without it and --calibrate four rendered views of a table."""
    calibrate: str = ""
    """Bag, video or folder of images to calibrate int8 on, as the robot will see them."""
    num_images: int = 8
    """So many of them are taken, evenly spread."""
    out: str = ""
    """Folder to write; without it one in the cache ($PERCEPTION_CACHE), where extractors look for it."""
    extractor: ExtractorConfig = field(default_factory=lambda: ExtractorConfig(backend="torch", precision="float32"))
    """Weights, adapter and layer of the network; its name is MODEL."""


def run(arguments: Arguments) -> int:
    """Prints where the folders are, and for each a table of accuracy and time."""
    settings = ExportSettings(arguments.backend, arguments.precision, arguments.image_size, arguments.max_batch)
    if settings.precision in CALIBRATED and not arguments.calibrate:
        raise ConfigError(
            f"precision = {settings.precision!r}: must be calibrated; give --calibrate with a bag, a video or a folder of images from the camera"
        )
    parts = _parts(arguments, settings)
    steps = Steps()
    for part in parts:
        folder = export_folder(part.model, settings)
        if arguments.out:
            # Several parts lie side by side, under the ends of their names.
            folder = Path(arguments.out).expanduser() / (part.model.rpartition(".")[2] if len(parts) > 1 else "")
        with steps.step(f"export {part.model} to {settings.backend} {settings.precision}") as step:
            record, is_new = export_part(part, settings, lambda: check_images(arguments), folder, step.describe)
            step.result = str(folder) if is_new else f"nothing to do, {folder} is up to date"
        steps.console.print(table_of(record, folder))
    return 0


def _parts(arguments: Arguments, settings: ExportSettings) -> tuple[GraphPart, ...]:
    """What there is to export. Raises ConfigError for an unknown name and settings that do not fit."""
    if arguments.model in network_names():
        if arguments.config:
            raise ConfigError(f"config = {arguments.config!r}: is for networks that are no extractors; {arguments.model} has one size")
        extractor = _extractor(arguments)
        check_settings(extractor.network, settings)
        return (extractor_part(extractor, settings.image_size),)
    if arguments.model not in GRAPHS:
        raise ConfigError(f"model = {arguments.model!r}: must be one of {', '.join((*network_names(), *GRAPHS))}")
    torch.manual_seed(0)  # without weights the same network each time
    network = create_network(arguments.model, arguments.config or None, arguments.weights or None)
    if not arguments.weights:
        fill_zeros(network)
    return network_parts(arguments.model, network, settings.image_size, _title(arguments))


def _title(arguments: Arguments) -> str:
    """Network, sizes and weights."""
    config = arguments.config or next(iter(network_spec(arguments.model).configurations))
    path = Path(arguments.weights).expanduser()
    return f"{arguments.model}({config}, {f'{path.name}:{file_sha256(path)[:_HASH_LENGTH]}' if arguments.weights else 'random'})"


def _extractor(arguments: Arguments) -> NetworkExtractor:
    """The extractor with the network's own number type, on the CPU."""
    chosen = replace(arguments.extractor, extractor=arguments.model, backend="torch", precision="float32", device="cpu")
    extractor = create_extractor(replace(chosen, weights=arguments.weights) if arguments.weights else chosen)
    assert isinstance(extractor, NetworkExtractor)
    return extractor


def check_images(arguments: Arguments) -> CheckImages:
    """The images that the arguments name, else rendered ones."""
    source = arguments.calibrate or arguments.images
    if arguments.num_images < 1:
        raise ConfigError(f"num_images = {arguments.num_images}: must be at least 1")
    if source:
        return CheckImages(read_images(source, arguments.num_images), source)
    from perception.rendering.tabletop import TabletopScene

    height, width = arguments.image_size
    scene = TabletopScene(width=width, height=height, supersampling=1)
    return CheckImages([scene.render(pose).image for pose in scene.trajectory(_NUM_RENDERED)], "rendered views of a table")


def read_images(source: str, number: int) -> list[NDArray[np.uint8]]:
    """`number` images, or fewer where there are no more, evenly spread over a folder of images, a video, or the first image topic of a bag."""
    path = Path(source).expanduser()
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _spread(list(islice((frame.image for frame in VideoReader(path)), _NUM_CALIBRATION_READ)), number)
    if path.suffix in (".mcap", ".db3") or (path.is_dir() and any(file.suffix in (".mcap", ".db3") for file in path.iterdir())):
        return _spread(list(_bag_images(path)), number)
    if not path.is_dir():
        raise InputError(f"images {path}: must be a folder of images, a video ({', '.join(VIDEO_SUFFIXES)}) or a bag")
    return [read_image(file) for file in _spread(list_images(path), number)]


def _bag_images(path: Path) -> Iterator[NDArray[np.uint8]]:
    with BagReader(path) as bag:
        topics = bag.find_topics(IMAGE, COMPRESSED_IMAGE)
        if not topics:
            raise InputError(f"bag {path}: has no images (topics: {', '.join(sorted(bag.topics))})")
        # Depth images are of the same type, and cannot be decoded to RGB.
        coloured = [topic for topic in topics if "depth" not in topic] or topics
        yield from islice((frame.image for frame in bag.frames(coloured[0])), _NUM_CALIBRATION_READ)


def _spread(items: list, number: int) -> list:
    """At most `number` of the items, evenly spread."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int))
    return [items[index] for index in chosen]


def table_of(record: EngineRecord, folder: Path) -> Table:
    """Accuracy, time and size of an export."""
    accuracy, timings = record.accuracy, record.timings
    size_mb = sum((folder / name).stat().st_size for name in record.files) / 1e6
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "takes": "; ".join(map(str, record.io_spec.inputs)),
        "gives": "; ".join(map(str, record.io_spec.outputs)),
        "largest error": f"{accuracy.max_error:.3g} ({accuracy.max_share:.2g} of the largest output)",
        "cosine to torch": f"{accuracy.mean_cosine:.6f} on average, {accuracy.min_cosine:.6f} at worst",
        "compared": f"on {accuracy.num_images} {'images' if record.dim else 'rows'} ({accuracy.images}), run by {accuracy.run_by}",
        "one row" if not record.dim else "one image": f"{timings['run_ms']:.2f} ms" if "run_ms" in timings else "not timed: nothing here runs it",
        "serves": record.gpu or ", ".join(record.targets) or "any machine",
        "built in": ", ".join(f"{name.removesuffix('_s')} {value:.1f} s" for name, value in timings.items() if name.endswith("_s")),
        "size": f"{size_mb:.1f} MB: {', '.join(record.files)}",
    }
    if record.left_out:
        rows["left to torch"] = record.left_out
    for name, value in rows.items():
        table.add_row(f"{name:<16}", value)
    return table
