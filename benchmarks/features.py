"""Time of the dense extractors on one 640x480 frame, as ratios to OpenCV's SIFT in the same run.

    .venv/bin/python benchmarks/features.py [--weights FOLDER_WITH_ALIKE] [--image FILE] [--repeats 5] [--threads 2]

Prints a Markdown table. Times are medians over rounds in which every extractor runs once, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.timing import Stopwatch
from perception.core.types import Frame
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig

BASELINE = "dense_sift_opencv"
BACKENDS: tuple[Literal["torch", "onnxruntime"], ...] = ("torch", "onnxruntime")


def configs(weights: Path | None, num_threads: int) -> dict[str, DenseFeaturesConfig]:
    """Row title → config."""
    rows = {name: DenseFeaturesConfig(extractor=name, num_threads=num_threads) for name in (BASELINE, "dense_sift")}
    for name in ("alike_t", "alike_n") if weights else ():
        path = str(weights / f"{name.replace('_', '-')}.pth") if weights else ""
        for backend in BACKENDS:
            rows[f"{name}, {backend}"] = DenseFeaturesConfig(extractor=name, weights=path, backend=backend, num_threads=num_threads)
    for backend in BACKENDS:
        rows[f"tiny_dinov2, {backend}"] = DenseFeaturesConfig(extractor="tiny_dinov2", backend=backend, num_threads=num_threads)
    return rows


def image_of(path: Path | None) -> NDArray[np.uint8]:
    """A 640x480 image: the file's, or smooth coloured noise."""
    if path is not None:
        image = cv2.imread(str(path))
        if image is None:
            raise SystemExit(f"--image {path}: cannot be read")
        return cv2.cvtColor(cv2.resize(image, (640, 480)), cv2.COLOR_BGR2RGB).astype(np.uint8)
    noise = np.random.default_rng(0).standard_normal((480, 640, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(127 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder with alike-t.pth and alike-n.pth")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads)
    frame = Frame(image_of(arguments.image), 0)
    extractors = {title: DenseFeatures(config) for title, config in configs(arguments.weights, arguments.threads).items()}
    shapes = {title: tuple(features.step(frame).descriptors.shape) for title, features in extractors.items()}
    times_ms: dict[str, list[float]] = {title: [] for title in extractors}
    for _ in range(arguments.repeats):
        for title, features in extractors.items():
            stopwatch = Stopwatch()
            features.step(frame)
            times_ms[title].append(1000 * stopwatch.lap())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, median of {arguments.repeats}\n")
    print("| extractor | dim x rows x cols | ms | times faster than OpenCV's SIFT |\n|---|---|---|---|")
    baseline = statistics.median(times_ms[BASELINE])
    for title, times in times_ms.items():
        median = statistics.median(times)
        print(f"| {title} | {' x '.join(map(str, shapes[title]))} | {median:.0f} | {baseline / median:.1f} |")


if __name__ == "__main__":
    main()
