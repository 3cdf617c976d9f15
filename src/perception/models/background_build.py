"""What `backend: auto` does where nothing was measured: torch at once, and a faster graph made beside it as soon as that would have paid.

A table of expected order for each class of processor says which way is likely the fastest. Its graph is exported by another process, at low priority,
once a network has worked so long on images of one size that the time lost is no longer small; images of many sizes never get there. The
graph is compared with float32 on an image from the camera itself; one that differs is not used. What came of it is kept in the cache, so that the
next process begins with the graph. `perception bench` replaces the expectation by a measurement.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.backends.backend import Backend, BackendOptions, open_backend
from perception.backends.engine_folder import read_record, sha256_of
from perception.backends.machine import processor, this_machine
from perception.backends.onnx_export import compare
from perception.core.config import from_mapping
from perception.core.errors import PerceptionError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.graph_backends import DTYPES, ENGINE_BACKENDS, ENGINE_PRECISIONS, GraphCase, engine_folder_path, graph_path, open_case, why_not
from perception.models.measurements import MIN_COSINE
from perception.models.weights import cache_dir

_LOG = logging.getLogger(__name__)
BUILD_S = 6.0
"""So much time must have been lost. Making the graph of a ViT-S for 448x448 px takes 15 s of one core (export 9 s), of which little is felt at low
priority."""
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
    """The graph for one extractor and image size: whether it is there, when to make it, and how it is opened.

    identity: `network_identity` of the network · size: (height, width) in px, which the network takes as it is.
    """

    def __init__(self, identity: str, name: str, config: ExtractorConfig, way: ExpectedWay, size: tuple[int, int]) -> None:
        self.way = way
        self._size, self._config, self._name = size, config, name
        self._key = _key(identity, way, size)
        self._spent_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False

    @property
    def title(self) -> str:
        """Such as "openvino bfloat16"."""
        return f"{self.way.backend} {self.way.precision}"

    def opened(self) -> Backend | None:
        """The graph, where it was made and found exact; None where not."""
        built = read_built(_record_path(self._key))
        if built is None:
            return None
        self._over = True
        if not built.min_cosine >= MIN_COSINE:
            return None
        try:
            if sha256_of(Path(built.graph)) != built.sha256:
                raise WeightsError(f"graph {built.graph}: was changed since it was made; not loaded")
            return open_backend(built.backend, Path(built.graph), BackendOptions(dtype=DTYPES[built.precision], num_threads=torch.get_num_threads()))
        except (OSError, PerceptionError) as error:
            _record_path(self._key).unlink(missing_ok=True)
            self._over = False
            _LOG.warning("backend = 'auto': %s; torch runs %s until it is made again", error, self._name)
            return None

    @property
    def is_running(self) -> bool:
        """Whether its process is at work."""
        return self._process is not None and self._process.poll() is None

    def after(self, seconds: float, image: NDArray[np.uint8], may_start: bool = True) -> Backend | None:
        """To be called after each image that torch ran, with the time that took: the graph when it has just become ready. may_start: whether a
        process may be begun now if it is due."""
        if self._over:
            return None
        self._spent_s += seconds
        if self._process is None:
            if may_start and self._spent_s * (1 - 1 / self.way.gain) > BUILD_S:
                self._start(image)
            return None
        if self.is_running:
            return None
        self._over = True
        return self._finished()

    def _start(self, image: NDArray[np.uint8]) -> None:
        height, width = self._size
        _LOG.info("%s: %s is expected to be faster for %dx%d px; making its graph in the background", self._name, self.title, width, height)
        try:
            folder = Path(tempfile.mkdtemp(prefix="perception-build-"))
            np.save(folder / "image.npy", image)
            # Pipelines hand on a config of their own, which holds more.
            config = {field.name: getattr(self._config, field.name) for field in dataclasses.fields(ExtractorConfig)}
            job = {"config": config, "way": dataclasses.asdict(self.way), "key": self._key}
            (folder / "job.json").write_text(json.dumps(job))
            with (folder / "log").open("wb") as log:
                self._process = subprocess.Popen([sys.executable, "-m", __name__, str(folder)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._log = folder / "log"
        except OSError as error:
            self._over = True
            _LOG.warning("%s: no graph can be made in the background (%s); torch goes on", self._name, error)

    def _finished(self) -> Backend | None:
        assert self._process is not None
        if self._process.returncode:
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            reason = lines[-1][:300] if lines else f"exit status {self._process.returncode}"
            _LOG.warning("%s: %s was not made (%s); torch goes on", self._name, self.title, reason)
            return None
        backend = self.opened()
        if backend is None:
            _LOG.info("%s: %s differs from float32 by more than a cosine of %s; torch goes on", self._name, self.title, MIN_COSINE)
        else:
            _LOG.info("%s: runs on %s from now on", self._name, self.title)
        return backend


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


def _key(identity: str, way: ExpectedWay, size: tuple[int, int]) -> str:
    return hashlib.sha256(f"{identity}|{way.backend}|{way.precision}|{size}".encode()).hexdigest()[:24]


def build(config: ExtractorConfig, way: ExpectedWay, key: str, image: NDArray[np.uint8]) -> BuiltGraph:
    """Make the graph for images of this size, compare it with float32 on this one, and keep what came of it.

    image (height, width, 3) RGB, of a size the network takes. Raises WeightsError where the config no longer gives the same network.
    """
    from perception.models.network_extractor import NetworkExtractor
    from perception.models.registry import create_extractor

    extractor = create_extractor(dataclasses.replace(config, backend="torch", precision="float32", device="cpu"))
    assert isinstance(extractor, NetworkExtractor)
    network: Any = extractor.network
    size = (image.shape[0], image.shape[1])
    if _key(network_identity(network, extractor.name), way, size) != key:
        raise WeightsError(f"{extractor.name}: the weights or libraries changed since this process began; start it again")
    case = GraphCase(way.backend, way.precision, *size)
    network.prepare(*size)
    path = graph_path(network, extractor.name, case)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255).contiguous()
    with torch.inference_mode():
        expected = network(pixels)
    backend = open_case(network, extractor.name, case, torch.device("cpu"))
    agreement = compare(backend.run({"image": pixels})["tokens"], expected)
    built = BuiltGraph(str(path), sha256_of(path), way.backend, way.precision, agreement.min_cosine, agreement.mean_cosine)
    record = _record_path(key)
    partial = record.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(dataclasses.asdict(built), indent=1) + "\n")
    os.replace(partial, record)
    return built


def main(folder: Path) -> int:
    """The process in the background: does the job that `BackgroundBuild` wrote into a folder."""
    os.nice(_NICE)
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text())
    try:
        build(from_mapping(ExtractorConfig, job["config"]), ExpectedWay(**job["way"]), job["key"], np.load(folder / "image.npy"))
    except PerceptionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
