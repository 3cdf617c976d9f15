"""Times a network on all backends side by side, against what the machine can do at best. What `perception bench` does."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from perception.backends.backend import Backend
from perception.backends.machine import Peaks
from perception.backends.onnx_export import compare
from perception.core.devices import multiplies_bfloat16
from perception.core.errors import PerceptionError
from perception.core.timing import Stopwatch
from perception.models.graph_backends import DTYPES, PRECISIONS, GraphCase, open_case, why_not
from perception.models.measurements import Measurement

_WARM_UP = 2
_CLEAR_REFERENCES = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class WorkCounter(TorchDispatchMode):
    """Counts what a network computes while it runs: operations of matrix products, convolutions and attention (a multiplication and an addition
    are two), and how many values these read and write; what is done value by value is left out, as it can be fused with them."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_attention = "scaled_dot_product" in str(func)
        if not is_attention and func._overloadpacket not in flop_registry:
            with self:  # in inference mode composite operators arrive whole
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        out = func(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        first = out[0] if isinstance(out, tuple) else out
        if is_attention:
            query, key = tensors[0], tensors[1]
            self.operations += 4 * query.numel() * key.shape[-2]
            self.values += sum(tensor.numel() for tensor in tensors[:3]) + first.numel()
        elif func._overloadpacket in flop_registry:
            self.operations += int(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out))
            self.values += sum(tensor.numel() for tensor in tensors) + first.numel()
        return out


@dataclass
class Contestant:
    """One way to run the network, and what was seen of it."""

    case: GraphCase
    backend: Backend
    peak_memory_mib: float
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    cosines: tuple[float, float] = (math.nan, math.nan)
    max_error: float = math.nan


@dataclass(frozen=True)
class Outcome:
    """rows: what was measured · left_out: title of a case → why it was not · peaks: what the machine did at best in the same run."""

    rows: list[Measurement]
    left_out: dict[str, str]
    matrix_flops: dict[str, float]
    memory_bytes_per_s: float


def default_ways(device: torch.device, compiled: bool, int8: bool) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(backend, precision) that are worth measuring on a device, float32 on torch first; and the backends that cannot run, with the reason."""
    cpu = device.type == "cpu"
    half = ("bfloat16",) if multiplies_bfloat16(device) else ()
    ways: list[tuple[str, str]] = []
    left_out: dict[str, str] = {}
    for backend, precisions in PRECISIONS.items():
        if backend == "torch_compiled" and not compiled:
            left_out[backend] = "compiling takes a minute on a CPU; add --compile"
            continue
        reason = why_not(backend, device)
        if reason:
            left_out[backend] = reason
            continue
        wanted = ("float32", *half, *(() if cpu else ("float16",)), *(("int8",) if int8 else ()))
        ways += [(backend, precision) for precision in wanted if precision in precisions and (backend != "torch_compiled" or precision != "float32")]
    return ways, left_out


def measure(
    network: nn.Module,
    name: str,
    cases: Sequence[GraphCase],
    images: Callable[[GraphCase], torch.Tensor],
    device: torch.device,
    repeats: int,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Every case once in each of `repeats` rounds, with the machine's peaks between, so that whatever else the machine does slows all alike.

    images: batch (batch, 3, height, width) float32 in [0, 1] of a case. The first case of each size and batch must be torch float32: it is what the
    others are compared with. A case that cannot run is left out with its reason.
    """
    left_out: dict[str, str] = {}
    contestants: list[Contestant] = []
    expected: dict[tuple[int, int, int], torch.Tensor] = {}
    work: dict[tuple[int, int, int], WorkCounter] = {}
    for case in cases:
        subject = (case.height, case.width, case.batch)
        batch = images(case).to(device)
        say(f"open {case.title}")
        try:
            contestant, output = _opened(network, name, case, batch, device)
        except (PerceptionError, MemoryError, RuntimeError) as error:
            left_out[f"{case.title} {case.height}x{case.width} batch {case.batch}"] = _reason(error)
            continue
        if subject not in expected:
            assert (case.backend, case.precision) == ("torch", "float32")
            expected[subject] = output
            with WorkCounter() as counter:
                contestant.backend.run({"image": batch})
            work[subject] = counter
        contestant.cosines, contestant.max_error = _agreement(output, expected[subject])
        contestants.append(contestant)
    types = tuple(dict.fromkeys(DTYPES[way] for way in ("float32", *(c.case.precision for c in contestants)) if way in DTYPES))
    peaks = Peaks(device, types)
    for index in range(repeats):
        say(f"round {index + 1} of {repeats}")
        peaks.sample()
        for contestant in contestants:
            _time(contestant, images(contestant.case).to(device), device)
    for contestant in contestants:
        contestant.backend.close()
    stride = int(getattr(network, "stride_px", 0))
    flops, memory = peaks.matrix_flops(), peaks.memory_bytes_per_s()
    rows = [
        _row(contestant, name, stride, device, work[contestant.case.height, contestant.case.width, contestant.case.batch], flops, memory)
        for contestant in contestants
    ]
    return Outcome(rows, left_out, flops, memory)


def _opened(network: nn.Module, name: str, case: GraphCase, batch: torch.Tensor, device: torch.device) -> tuple[Contestant, torch.Tensor]:
    """Opened and warm, with its output on the CPU. Memory is what this took, the network's copy included."""
    before = _start_memory(device)
    backend = open_case(network, name, case, device, own_copy=True)
    for _ in range(_WARM_UP):
        output = backend.run({"image": batch})["tokens"].detach().float().cpu().clone()
    return Contestant(case, backend, _memory_mib(device, before)), output


def _time(contestant: Contestant, batch: torch.Tensor, device: torch.device) -> None:
    """One run, added to the times of a contestant."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    watch, start = Stopwatch(), time.process_time()
    contestant.backend.run({"image": batch})
    if device.type == "cuda":
        torch.cuda.synchronize()
    contestant.seconds.append(watch.lap())
    contestant.processor_seconds.append(time.process_time() - start)


def _agreement(output: torch.Tensor, expected: torch.Tensor) -> tuple[tuple[float, float], float]:
    found = compare(output, expected)
    return (found.min_cosine, found.mean_cosine), found.max_error


def _row(
    contestant: Contestant, name: str, stride: int, device: torch.device, work: WorkCounter, matrix_flops: dict[str, float], memory: float
) -> Measurement:
    case, median = contestant.case, statistics.median(contestant.seconds)
    value_bytes = {"float32": 4, "int8": 1}.get(case.precision, 2)
    peak = matrix_flops.get("bfloat16" if case.precision == "int8" else case.precision, matrix_flops["float32"])
    moved = work.values * value_bytes / median
    return Measurement(
        name, stride, device.type, case.backend, case.precision, case.height, case.width, case.batch, torch.get_num_threads(),
        median_ms=1e3 * median,
        p95_ms=1e3 * float(np.quantile(contestant.seconds, 0.95)),
        processor_ms=1e3 * statistics.median(contestant.processor_seconds),
        frames_per_s=case.batch / median,
        peak_memory_mib=contestant.peak_memory_mib,
        flops=work.operations / median,
        matrix_share=work.operations / median / peak,
        bytes_per_s=moved,
        memory_share=moved / memory,
        min_cosine=contestant.cosines[0],
        mean_cosine=contestant.cosines[1],
        max_error=contestant.max_error,
    )  # fmt: skip


def _start_memory(device: torch.device) -> float:
    """Forget the highest use of memory so far; what is used now, in MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**20
    try:
        _CLEAR_REFERENCES.write_text("5")  # sets VmHWM back to what is used now
    except OSError:
        return math.nan
    return _status_mib("VmRSS")


def _memory_mib(device: torch.device, before: float) -> float:
    """The highest use since `before`. On a GPU libraries beside torch show only what they keep."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return max((total - free) / 2**20 - before, torch.cuda.max_memory_allocated() / 2**20)
    return max(0.0, _status_mib("VmHWM") - before)


def _status_mib(entry: str) -> float:
    found = re.search(rf"^{entry}:\s+(\d+) kB", _STATUS.read_text() if _STATUS.is_file() else "", re.MULTILINE)
    return int(found[1]) / 1024 if found else math.nan


def _reason(error: Exception) -> str:
    if isinstance(error, PerceptionError):
        return str(error)
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return "does not fit into memory; take a smaller --image-size or --batch"
    return f"cannot run it ({text[:200]})"
