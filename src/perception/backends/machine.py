"""What this machine is and what it can do at best: processor, GPU, library versions; measured peaks of matrix products and of memory."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from perception.backends.engine_folder import gpu_identity
from perception.core.timing import Stopwatch

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
}
"""Library → the distributions that carry it."""
VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
_PEAK_SIDE = {"cpu": 1024, "cuda": 8192}
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}
_SAMPLES = 3


@dataclass(frozen=True)
class Machine:
    """Whatever decides how fast a network is: a measurement made on an equal machine holds here.

    processor: name and the flags that matter · num_cores: that this process may use · gpu: `gpu_identity`, empty without one.
    """

    processor: str
    num_cores: int
    gpu: str
    versions: Mapping[str, str]

    @property
    def key(self) -> str:
        """Short hash of all of it."""
        text = "|".join((self.processor, str(self.num_cores), self.gpu, *(f"{name}={version}" for name, version in sorted(self.versions.items()))))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self) | {"key": self.key}


@functools.cache
def this_machine() -> Machine:
    """The machine and environment of this process."""
    name, flags = processor()
    return Machine(" ".join((name, *flags)), num_cores(), gpu_identity(), library_versions())


def processor() -> tuple[str, tuple[str, ...]]:
    """Name of the processor, and those of its instruction sets that decide how fast networks run."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    entries: dict[str, str] = {}
    for line in lines:
        title, _, value = line.partition(":")
        entries.setdefault(title.strip(), value.strip())  # the first core's
    flags = set(entries.get("flags", entries.get("Features", "")).split())
    return entries.get("model name", platform.machine()), tuple(flag for flag in VECTOR_FLAGS if flag in flags)


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def library_versions() -> dict[str, str]:
    """Those libraries that run networks and are installed."""
    found = {}
    for library, names in LIBRARIES.items():
        version = next(filter(None, map(_installed_version, names)), "")
        if version:
            found[library] = version
    return found


def _installed_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


class Peaks:
    """Measures the ceilings of a device, a little at a time, so that it can be interleaved with what is compared to them."""

    def __init__(self, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> None:
        self._device = device
        side = _PEAK_SIDE[device.type]
        generator = torch.Generator().manual_seed(0)
        factor = torch.randn(side, side, generator=generator).to(device)
        self._operations = 2 * side**3
        self._factors = {dtype: (factor.to(dtype), factor.to(dtype)) for dtype in dtypes}
        self._source = torch.zeros(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
        self._target = torch.ones_like(self._source)
        self._seconds: dict[torch.dtype | str, list[float]] = {}

    def sample(self) -> None:
        """A few matrix products of each type, and copies."""
        for _ in range(_SAMPLES):
            for dtype, (a, b) in self._factors.items():
                self._seconds.setdefault(dtype, []).append(self._timed(torch.matmul, a, b))
            self._seconds.setdefault("copy", []).append(self._timed(self._target.copy_, self._source))

    def _timed(self, operation: Callable[..., object], *arguments: torch.Tensor) -> float:
        self._wait()
        watch = Stopwatch()
        operation(*arguments)
        self._wait()
        return watch.lap()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def matrix_flops(self) -> dict[str, float]:
        """Floating-point operations per second of the best matrix product, by type name."""
        return {_name(dtype): self._operations / min(self._seconds[dtype]) for dtype in self._factors}

    def memory_bytes_per_s(self) -> float:
        """Bytes read and written per second by the best copy."""
        return 2 * self._source.nbytes / min(self._seconds["copy"])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
