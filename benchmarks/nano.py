"""Frames per second of nano on 640x480 against ALIKE-n and dense SIFT, side by side in one run; operations and size of its parts.

    .venv/bin/python benchmarks/nano.py [--weights FILE] [--alike FOLDER_WITH_ALIKE] [--repeats 7] [--threads 2]

Prints two Markdown tables. Every extractor runs once in each round, so that a busy machine slows all alike. Wall times are the best of all rounds;
processor times, which other processes disturb less, are medians. Without --weights nano has random ones, which take the same time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from perception.core.timing import Stopwatch
from perception.models.extractor import Extractor, ExtractorConfig
from perception.models.nano import NanoNetwork, read_nano, write_nano
from perception.models.nano.network import folded
from perception.models.registry import create_extractor

HEIGHT, WIDTH = 480, 640


def extractors(nano: str, alike: Path | None) -> dict[str, ExtractorConfig]:
    """Row title → config."""
    rows = {
        "nano, torch float32": ExtractorConfig(extractor="nano", weights=nano, precision="float32"),
        "nano, torch bfloat16": ExtractorConfig(extractor="nano", weights=nano, precision="bfloat16"),
        "nano, onnxruntime float32": ExtractorConfig(extractor="nano", weights=nano, backend="onnxruntime"),
    }
    if alike is not None:
        path = str(alike / "alike-n.pth")
        rows["ALIKE-n, torch float32"] = ExtractorConfig(extractor="alike_n", weights=path, precision="float32")
        rows["ALIKE-n, torch bfloat16"] = ExtractorConfig(extractor="alike_n", weights=path, precision="bfloat16")
        rows["ALIKE-n, onnxruntime float32"] = ExtractorConfig(extractor="alike_n", weights=path, backend="onnxruntime")
    rows["dense SIFT"] = ExtractorConfig(extractor="dense_sift")
    return rows


def smooth_noise() -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) of gradients everywhere."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 2.0)
    return np.clip(127 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


def measure(rows: dict[str, Extractor], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Best wall time and median processor time of a frame in seconds, by title."""
    image = smooth_noise()
    for extractor in rows.values():
        extractor.extract(image)
    wall: dict[str, list[float]] = {title: [] for title in rows}
    processor: dict[str, list[float]] = {title: [] for title in rows}
    for _ in range(repeats):
        for title, extractor in rows.items():
            watch, start = Stopwatch(), time.process_time()
            extractor.extract(image)
            wall[title].append(watch.lap())
            processor[title].append(time.process_time() - start)
    return {title: min(times) for title, times in wall.items()}, {title: statistics.median(times) for title, times in processor.items()}


def parts(network: NanoNetwork) -> list[tuple[str, float, float]]:
    """Name, operations of a frame in 10^9 (a multiplication and an addition are two), and 10^3 weights of every part of the network."""
    fast = folded(network)
    with torch.inference_mode(), FlopCounterMode(display=False, depth=2) as counter:
        fast(torch.rand(1, 3, HEIGHT, WIDTH))
    counts = {name: sum(count.values()) for name, count in counter.get_flop_counts().items()}
    found = []
    for name, module in fast.named_children():
        prefix = f"{type(fast).__name__}.{name}"
        single = [count for key, count in counts.items() if key == prefix]
        operations = single[0] if single else sum(count for key, count in counts.items() if key.startswith(f"{prefix}.") and key.count(".") == 2)
        found.append((name, operations / 1e9, sum(parameter.numel() for parameter in module.parameters()) / 1e3))
    return [*found, ("all", counts["Global"] / 1e9, sum(weights for _, _, weights in found))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a file of nano; default: random weights")
    parser.add_argument("--alike", type=Path, help="folder with alike-n.pth")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    network = read_nano(arguments.weights) if arguments.weights else NanoNetwork()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.weights or Path(folder) / "nano.safetensors"
        if not arguments.weights:
            write_nano(path, network.config, network.state_dict())
        print(f"weights file: {path.stat().st_size / 1e6:.2f} MB\n")
        print("| part of nano | 10^9 operations | 10^3 weights |\n|---|---|---|")
        for name, operations, weights in parts(network):
            print(f"| {name} | {operations:.2f} | {weights:.0f} |")
        rows = {title: create_extractor(config) for title, config in extractors(str(path), arguments.alike).items()}
        wall, processor = measure(rows, arguments.repeats)
    print(f"\ntorch {torch.__version__}, {arguments.threads} threads, {WIDTH}x{HEIGHT}\n")
    print("| extractor | frames/s | ms | processor ms | times faster than dense SIFT |\n|---|---|---|---|---|")
    for title in rows:
        faster = wall["dense SIFT"] / wall[title]
        print(f"| {title} | {1 / wall[title]:.1f} | {1000 * wall[title]:.0f} | {1000 * processor[title]:.0f} | {faster:.1f} |")


if __name__ == "__main__":
    main()
