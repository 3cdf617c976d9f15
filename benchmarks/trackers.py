"""Frames per second of the point trackers, their memory, and what share of the machine's matrix products CoTracker3 reaches.

    .venv/bin/python benchmarks/trackers.py [--video FILE] [--repeats 3] [--device cpu|cuda]

CoTracker3 has its published size, random weights, 16 frames of 384x512, 256 points and 36 support points, 6 iterations; the parts of a window are
timed, the window is their sum (all iterations cost the same). Prints Markdown tables. Variants run interleaved and the best time of each counts;
on the CPU it is processor time of one thread, which other programs on the machine hardly change. Memory is the peak beyond what was there before.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from perception.io.videos import VideoReader
from perception.models.cotracker3 import ONLINE, CoTracker3
from perception.models.cotracker3.correlation import correlate
from perception_training.data.pseudo_labels import create_tracker
from perception_training.data.pseudo_labels.lucas_kanade import LucasKanadeConfig
from perception_training.data.pseudo_labels.tracker import grid_queries

NUM_FRAMES, NUM_POINTS, NUM_SUPPORT, NUM_ITERATIONS = 16, 256, 36, 6
LK_SIZE = (640, 480)
PEAK_SIDE = 2048
ENCODER, GATHERED, PLAIN, TRANSFORMER = "encoder", "correlation, gathered cells", "correlation, plain", "transformer"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def plain_correlate(levels: Sequence[Tensor], queries: Sequence[Tensor], points: Tensor, radius: int, read: Callable[[Tensor], Tensor]) -> Tensor:
    """`correlate` in its plain form: patches interpolated by grid_sample on all channels, all points at once."""
    num_batch, num_points, num_frames, _ = points.shape
    offsets = torch.arange(-radius, radius + 1.0, device=points.device)
    patch = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1).reshape(-1, 2)
    values = []
    for index, (level, query) in enumerate(zip(levels, queries, strict=True)):
        height, width, dim = level.shape[2:]
        places = (points / 2**index).transpose(1, 2).flatten(0, 1)[:, :, None] + patch
        places = places * (2 / places.new_tensor([width - 1, height - 1])) - 1
        maps = level.flatten(0, 1).permute(0, 3, 1, 2).float()  # grid_sample of torch 2.13 crashes on bfloat16 on the CPU
        sampled = functional.grid_sample(maps, places, padding_mode="border", align_corners=True)
        sampled = sampled.view(num_batch, num_frames, dim, num_points, -1).to(query.dtype)
        values.append(read(torch.einsum("btcnp,bnqc->bntpq", sampled, query).flatten(3)))
    return torch.cat(values, dim=-1)


def best_times_s(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Best time of each, run interleaved after one run to warm up."""
    best = dict.fromkeys(runs, float("inf"))
    for round_number in range(repeats + 1):
        for name, run in runs.items():
            start_s = _now_s(device)
            run()
            if round_number:
                best[name] = min(best[name], _now_s(device) - start_s)
    return best


def peak_memory_mb(run: Callable[[], object], device: torch.device) -> float:
    """Largest memory during a run beyond that before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs gave back would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = _resident_mb("VmRSS")
    run()
    return _resident_mb("VmHWM") - before


def _resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def _now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def lucas_kanade_rows(video: Path | None, repeats: int) -> None:
    """Frames/s with and without the alignment with the query's frame."""
    images = _images(video)
    queries = grid_queries(images.shape[1:3], len(images), 16)
    variants = {
        "Lucas–Kanade, aligned with the query's frame (default)": LucasKanadeConfig(),
        "Lucas–Kanade, frame to frame only": LucasKanadeConfig(refine_iterations=0, min_correlation=-1.0),
    }
    trackers = {name: create_tracker("lucas_kanade", config) for name, config in variants.items()}
    times = best_times_s({name: partial(tracker.track, images, queries) for name, tracker in trackers.items()}, repeats, torch.device("cpu"))
    print(f"| {len(images)} frames of {LK_SIZE[0]}x{LK_SIZE[1]}, 256 points | frames/s |\n|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {len(images) / seconds:.0f} |")


def _images(video: Path | None) -> np.ndarray:
    if video is not None:
        return np.stack([cv2.resize(frame.image, LK_SIZE, interpolation=cv2.INTER_AREA) for frame in VideoReader(video)])
    noise = np.random.default_rng(0).uniform(0, 255, (LK_SIZE[1] + 200, LK_SIZE[0] + 200, 3)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([texture[2 * t : 2 * t + LK_SIZE[1], 3 * t : 3 * t + LK_SIZE[0]] for t in range(50)])


def cotracker_rows(repeats: int, device: torch.device) -> None:
    """Time, memory and share of the matmul peak of the parts of one window, in both precisions and with the plain correlation."""
    torch.manual_seed(0)
    model = CoTracker3(ONLINE).eval().to(device)
    parts: dict[str, Callable[[], object]] = {}
    for name, dtype in DTYPES.items():
        parts |= {f"{part}, {name}": run for part, run in _parts(model, dtype, device).items()}
    times = best_times_s(parts, repeats, device)
    peaks = {name: _matmul_peak(dtype, repeats, device) for name, dtype in DTYPES.items()}
    print("\n| part of a CoTracker3 window | s | GFLOP | memory MB | share of matmul peak |\n|---|---|---|---|---|")
    for name, run in parts.items():
        part, _, precision = name.rpartition(", ")
        with FlopCounterMode(display=False) as counter:  # does not go together with autocast; both precisions do the same
            parts[f"{part}, float32"]()
        flops, peak = counter.get_total_flops(), peaks[precision]
        share = f"{flops / times[name] / peak:.0%} of {peak / 1e9:.0f} GFLOP/s"
        print(f"| {name} | {times[name]:.2f} | {flops / 1e9:.0f} | {peak_memory_mb(run, device):.0f} | {share} |")
    print("\n| whole window | s | frames/s (16 a window) | new frames/s (8 a window, online) | ratio |\n|---|---|---|---|---|")
    windows = {f"{name}, {correlation}": _window_s(times, name, correlation) for name in DTYPES for correlation in (GATHERED, PLAIN)}
    for name, (first_s, later_s) in windows.items():
        ratio = windows[f"float32, {GATHERED}"][0] / first_s
        print(f"| {name} | {first_s:.1f} | {NUM_FRAMES / first_s:.2f} | {NUM_FRAMES / 2 / later_s:.2f} | {ratio:.2f} |")


def _parts(model: CoTracker3, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """Encoder, correlation of one iteration (gathered and plain) and transformer of one iteration."""
    video = torch.rand(1, NUM_FRAMES, 3, ONLINE.height_px, ONLINE.width_px, device=device) * 255
    points = torch.rand(1, NUM_POINTS + NUM_SUPPORT, 2, device=device) * torch.tensor([ONLINE.width_px, ONLINE.height_px], device=device)

    def guarded(function: Callable[..., object], *arguments: object) -> object:
        with torch.inference_mode(), torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext():
            return function(*arguments)

    levels: Any = guarded(model.encode, video)
    patches: Any = guarded(model.query_patches, levels, torch.zeros(points.shape[:2], dtype=torch.long, device=device), points)
    everywhere = (points / ONLINE.stride_px)[:, :, None].expand(-1, -1, NUM_FRAMES, -1)
    tokens = torch.rand(1, NUM_POINTS + NUM_SUPPORT, NUM_FRAMES, ONLINE.token_dim, device=device)
    radius = ONLINE.correlation_radius
    return {
        ENCODER: partial(guarded, model.encode, video),
        GATHERED: partial(guarded, correlate, levels, patches, everywhere, radius, model.corr_mlp),
        PLAIN: partial(guarded, plain_correlate, levels, patches, everywhere, radius, model.corr_mlp),
        TRANSFORMER: partial(guarded, model.updateformer, tokens),
    }


def _window_s(times: dict[str, float], dtype: str, correlation: str) -> tuple[float, float]:
    """Seconds of a first window, and of a later one, half of whose frames are encoded already."""
    iterations = NUM_ITERATIONS * (times[f"{correlation}, {dtype}"] + times[f"{TRANSFORMER}, {dtype}"])
    encoder = times[f"{ENCODER}, {dtype}"]
    return encoder + iterations, encoder / 2 + iterations


def _matmul_peak(dtype: torch.dtype, repeats: int, device: torch.device) -> float:
    """FLOP/s of a large matrix product, as measured here."""
    a, b = (torch.rand(PEAK_SIDE, PEAK_SIDE, device=device, dtype=dtype) for _ in range(2))
    return 2 * PEAK_SIDE**3 / best_times_s({"product": lambda: a @ b}, max(3, repeats), device)["product"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="video for Lucas–Kanade; without it, moving noise")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    lucas_kanade_rows(arguments.video, arguments.repeats)
    cotracker_rows(arguments.repeats, torch.device(arguments.device))


if __name__ == "__main__":
    main()
