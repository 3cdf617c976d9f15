"""What `backend: auto` does where nothing was measured: torch at once, and a faster graph made beside it as soon as that would have paid.

A table of expected order for each class of processor says which way is likely the fastest. Its graph is exported by another process, at low priority,
once a network has worked so long that the time lost is no longer small. A network that depends on the image size needs a graph for each, so that
only what images of one size lost counts; others need one for all, and then only a comparison for each size: the graph is compared with float32 on an
image from the camera itself, and not used where it differs. What came of it is kept in the cache, so that the next process begins with the graph.
`perception bench` replaces the expectation by a measurement.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.backends.backend import Backend
from perception.backends.engine_folder import read_record, sha256_of
from perception.backends.machine import processor, this_machine
from perception.backends.onnx_export import compare, graph_files
from perception.core.config import from_mapping
from perception.core.errors import PerceptionError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.graph_backends import (
    ENGINE_BACKENDS,
    ENGINE_PRECISIONS,
    GraphCase,
    engine_folder_path,
    graph_path,
    open_case,
    open_graph,
    why_not,
)
from perception.models.measurements import MIN_COSINE
from perception.models.open_graphs import Size
from perception.models.weights import cache_dir

_LOG = logging.getLogger(__name__)
BUILD_S = 6.0
"""So much time must have been lost. Making the graph of a ViT-S for 448x448 px takes 15 s of one core (export 9 s), of which little is felt at low
priority."""
CHECK_S = 2.0
"""The same for a size that waits only for a comparison, for which a new process needs 3 s of one core."""
_NICE = 5
_SAMPLED_BYTES = 256


@dataclass(frozen=True)
class ExpectedWay:
    """A way to run a network that is likely the fastest on a class of processors, and how many times as fast as what torch does there by itself."""

    backend: str
    precision: str
    gain: float


EXPECTED: tuple[tuple[frozenset[str], ExpectedWay], ...] = (
    (frozenset({"amx_bf16"}), ExpectedWay("openvino", "bfloat16", 1.1)),
    (frozenset({"avx512_bf16"}), ExpectedWay("openvino", "bfloat16", 2.2)),
    (frozenset({"avx2"}), ExpectedWay("openvino", "float32", 1.2)),
)
"""Flags of the processor → the way; the first that fits. Ratios: docs/benchmarks.md, and for AMX facts of a Xeon with ViTs (torch bfloat16 2.7 to
2.9 times float32, OpenVINO bfloat16 2.9 to 3.7). Processors of other makes run torch, as nothing was measured on them."""


def expected_way(device: torch.device, precision: str = "auto") -> ExpectedWay | None:
    """What to make a graph for on this machine; None where torch is the best known, or another precision was asked for."""
    if device.type != "cpu" or importlib.util.find_spec("onnxscript") is None:
        return None
    flags = set(processor()[1])
    way = next((way for needed, way in EXPECTED if needed <= flags), None)
    if way is None or precision not in ("auto", way.precision) or why_not(way.backend, device):
        return None
    return way


def built_engine(name: str, device: torch.device, size: tuple[int, int], precision: str) -> tuple[str, str] | None:
    """Backend and precision of an exact enough engine that `perception export` left in its usual place for this GPU; None where there is none."""
    for backend in ENGINE_BACKENDS if device.type == "cuda" else ():
        for wanted in ("float16", "bfloat16", "float32") if precision == "auto" else (precision,):
            folder = engine_folder_path(name, backend, ENGINE_PRECISIONS[wanted], size, 1)
            try:
                if read_record(folder).accuracy.min_cosine >= MIN_COSINE:
                    return backend, wanted
            except WeightsError:
                continue
    return None


@dataclass
class _Waiting:
    """A size that torch runs. image: the last one · lost_s: how much faster all of them would have been on the graph."""

    image: NDArray[np.uint8]
    lost_s: float = 0.0


@dataclass(frozen=True)
class BuiltGraph:
    """What a build came to. graph: file · sha256: of it · min_cosine, mean_cosine: against float32 on torch, over the cells of the camera's image."""

    graph: str
    sha256: str
    backend: str
    precision: str
    min_cosine: float
    mean_cosine: float


class BackgroundBuild:
    """The graphs for one extractor, one for each image size it sees: whether they are there, when to make them, and how they are opened.

    identity: `network_identity` of the network · any_size: as of a DenseNetwork. Sizes are (height, width) in px that the network takes as they are.
    `is_used`: whether there was one that was exact for a size.
    """

    def __init__(self, identity: str, name: str, config: ExtractorConfig, way: ExpectedWay, any_size: bool) -> None:
        self.way, self.is_used = way, False
        self._identity, self._config, self._name, self._any_size = identity, config, name, any_size
        self._waiting: dict[Size, _Waiting] = {}
        self._decided: set[Size] = set()
        self._asked: list[Size] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def title(self) -> str:
        """Such as "openvino bfloat16"."""
        return f"{self.way.backend} {self.way.precision}"

    def opened(self, size: Size) -> Backend | None:
        """The graph, where it was made and found exact; None where not."""
        path = _record_path(_key(self._identity, self.way, size))
        built = read_built(path)
        if built is None:
            return None
        try:
            if sha256_of(*graph_files(Path(built.graph))) != built.sha256:
                raise WeightsError(f"graph {built.graph}: was changed since it was made; not loaded")
            self._decided.add(size)
            self._waiting.pop(size, None)
            if not built.min_cosine >= MIN_COSINE:
                _LOG.info("%s: %s differs from float32 by more than a cosine of %s for %dx%d px", self._name, self.title, MIN_COSINE, *size[::-1])
                return None
            backend = open_graph(Path(built.graph), GraphCase(built.backend, built.precision, *size), torch.device("cpu"))
            self.is_used = True
            return backend
        except (OSError, PerceptionError) as error:
            path.unlink(missing_ok=True)
            self._decided.discard(size)
            _LOG.warning("backend = 'auto': %s; torch runs %s until it is made again", error, self._name)
            return None

    def after(self, size: Size, seconds: float, image: NDArray[np.uint8]) -> Backend | None:
        """To be called after each image that torch ran, with the time that took: the graph when it has become ready."""
        if self._process is not None and self._process.poll() is not None:
            self._end(self._process.returncode)
        if size in self._decided:
            return None
        backend = self.opened(size)
        if backend is not None:
            _LOG.info("%s: runs on %s from now on for %dx%d px", self._name, self.title, *size[::-1])
        if size in self._decided:
            return backend
        waiting = self._waiting.setdefault(size, _Waiting(image))
        waiting.image = image
        waiting.lost_s += seconds * (1 - 1 / self.way.gain)
        if self._process is None:
            self._start_if_due(size)
        return None

    def _start_if_due(self, size: Size) -> None:
        """A graph for all sizes is worth the time that these lost together, and each of them has only to be compared."""
        sizes = list(self._waiting) if self._any_size else [size]
        due_s = CHECK_S if self._any_size and self.is_used else BUILD_S
        if sum(self._waiting[size].lost_s for size in sizes) > due_s:
            self._start(sizes)

    def _start(self, sizes: list[Size]) -> None:
        said = ", ".join(f"{width}x{height}" for height, width in sizes)
        _LOG.info("%s: %s is expected to be faster for %s px; making its graph in the background", self._name, self.title, said)
        self._asked = sizes
        try:
            folder = Path(tempfile.mkdtemp(prefix="perception-build-"))
            for index, size in enumerate(sizes):
                np.save(folder / f"{index}.npy", self._waiting[size].image)
            # Pipelines hand on a config of their own, which holds more.
            config = {field.name: getattr(self._config, field.name) for field in dataclasses.fields(ExtractorConfig)}
            job = {"config": config, "way": dataclasses.asdict(self.way), "identity": self._identity, "num_images": len(sizes)}
            (folder / "job.json").write_text(json.dumps(job))
            self._log = folder / "log"
            with self._log.open("wb") as log:
                self._process = subprocess.Popen([sys.executable, "-m", __name__, str(folder)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        except OSError as error:
            self._give_up(sizes)
            _LOG.warning("%s: no graph can be made in the background (%s); torch goes on", self._name, error)

    def _end(self, status: int) -> None:
        """Of the process: what it made is found by `opened`, what it could not make is not tried again."""
        if status:
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            reason = lines[-1][:300] if lines else f"exit status {status}"
            _LOG.warning("%s: %s was not made (%s); torch goes on", self._name, self.title, reason)
            self._give_up(size for size in self._asked if not _record_path(_key(self._identity, self.way, size)).is_file())
            shutil.rmtree(self._log.parent, ignore_errors=True)
        for size in self._asked:
            self._waiting.pop(size, None)
        self._process = None

    def _give_up(self, sizes: Iterable[Size]) -> None:
        for size in sizes:
            self._decided.add(size)
            self._waiting.pop(size, None)


def read_built(path: Path) -> BuiltGraph | None:
    """The record of a build; None where there is none that can be read."""
    try:
        return BuiltGraph(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _record_path(key: str) -> Path:
    return cache_dir() / "graphs" / f"auto-{key}.json"


def network_identity(network: nn.Module, name: str) -> str:
    """A hash of name, samples of all float32 weights (a whole hash of a large network takes seconds) and machine with its library versions."""
    digest = hashlib.sha256(f"{name}|{this_machine().key}".encode())
    for title, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(
            f"{title}{tuple(tensor.shape)}".encode() + values[:_SAMPLED_BYTES].numpy().tobytes() + values[-_SAMPLED_BYTES:].numpy().tobytes()
        )
    return digest.hexdigest()


def _key(identity: str, way: ExpectedWay, size: Size) -> str:
    return hashlib.sha256(f"{identity}|{way.backend}|{way.precision}|{size}".encode()).hexdigest()[:24]


def build(config: ExtractorConfig, way: ExpectedWay, identity: str, images: Iterable[NDArray[np.uint8]]) -> list[BuiltGraph]:
    """Make the graphs for images of these sizes, compare each with float32 on its image, and keep what came of it as soon as it is known.

    images: (height, width, 3) RGB each, of sizes the network takes. Raises WeightsError where the config no longer gives the same network.
    """
    from perception.models.network_extractor import NetworkExtractor
    from perception.models.registry import create_extractor

    extractor = create_extractor(dataclasses.replace(config, backend="torch", precision="float32", device="cpu"))
    assert isinstance(extractor, NetworkExtractor)
    network: Any = extractor.network
    if network_identity(network, extractor.name) != identity:
        raise WeightsError(f"{extractor.name}: the weights or libraries changed since this process began; start it again")
    found = []
    for image in images:
        size = (image.shape[0], image.shape[1])
        found.append(_built(network, extractor.name, GraphCase(way.backend, way.precision, *size), image))
        record = _record_path(_key(identity, way, size))
        partial = record.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(dataclasses.asdict(found[-1]), indent=1) + "\n")
        os.replace(partial, record)
    return found


def _built(network: Any, name: str, case: GraphCase, image: NDArray[np.uint8]) -> BuiltGraph:
    backend = open_case(network, name, case, torch.device("cpu"))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255).contiguous()
    with torch.inference_mode():
        agreement = compare(backend.run({"image": pixels})["tokens"], network(pixels))
    backend.close()
    path = graph_path(network, name, case)
    return BuiltGraph(str(path), sha256_of(*graph_files(path)), case.backend, case.precision, agreement.min_cosine, agreement.mean_cosine)


def main(folder: Path) -> int:
    """The process in the background: does the job that `BackgroundBuild` wrote into a folder."""
    os.nice(_NICE)
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text())
    try:
        images = (np.load(folder / f"{index}.npy") for index in range(job["num_images"]))
        build(from_mapping(ExtractorConfig, job["config"]), ExpectedWay(**job["way"]), job["identity"], images)
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    # Here and not by who waits for it, who may have ended meanwhile; an error is read from the folder first.
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
