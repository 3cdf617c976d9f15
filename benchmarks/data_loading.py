"""Samples/s of one worker for readers, shards, augmentation and collation, as ratios to bare decoding of the same files by OpenCV.

    .venv/bin/python benchmarks/data_loading.py [--kitchen ../shared/data/redkitchen] [--frames 4] [--rounds 5] [--samples 12]

Prints a Markdown table. In every round each row works on the same samples; times are those of the processor, which other programs hardly disturb, and
the best round counts. The floor decodes the colour and depth files of a sample with OpenCV, keeps the arrays and does nothing else; shards have the
floor of their own bytes. A row is the time for one sample of `--frames` frames at 640x480 with depth, on one thread.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from perception.core.timing import Stopwatch
from perception_training.data.augmentation import AugmentationConfig, ColourConfig, ShiftScaleRotateConfig, augment
from perception_training.data.collation import collate
from perception_training.data.frame_sampling import FrameSamplingConfig, choose_frames
from perception_training.data.loading import LoaderConfig, make_loader
from perception_training.data.mixture import Mixture, Source
from perception_training.data.readers import open_dataset
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset
from perception_training.data.shard_writing import ShardConfig, write_dataset

Row = tuple[str, Callable[[int], object], Callable[[int], object] | None]
"""Title, work on sample k, and the floor it is compared with."""


def write_tum(folder: Path, num_frames: int) -> Path:
    """A TUM RGB-D recording of textured noise, 640x480, colour and depth as PNG."""
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    random = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for number in range(num_frames):
        stamp = f"{1000 + number / 30:.6f}"
        smooth = cv2.GaussianBlur(random.standard_normal((480, 640, 3)).astype(np.float32), (0, 0), 3)
        cv2.imwrite(str(folder / "rgb" / f"{stamp}.png"), np.clip(127 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8))
        depth = cv2.GaussianBlur(random.standard_normal((480, 640)).astype(np.float32), (0, 0), 20)
        cv2.imwrite(str(folder / "depth" / f"{stamp}.png"), (10000 + 2000 * depth / depth.std()).astype(np.uint16))
        for kind in ("rgb", "depth"):
            rows[kind].append(f"{stamp} {kind}/{stamp}.png")
        rows["groundtruth"].append(f"{stamp} {number * 0.01:.4f} 0 0 0 0 0 1")
    for kind, lines in rows.items():
        (folder / f"{kind}.txt").write_text("# made for a benchmark\n" + "\n".join(lines) + "\n")
    return folder


def drawn(dataset: Dataset, frames: FrameSamplingConfig, number: int) -> Sample:
    """Sample `number`, as a mixture of this set alone draws it."""
    random = np.random.default_rng((0, number))
    sequence = opened(dataset, int(random.integers(len(dataset))))
    return sequence.load(choose_frames(sequence, frames, random))


def opened(dataset: Dataset, index: int) -> Any:
    """A sequence that stays open, as in a mixture."""
    key = (id(dataset), index)
    if key not in _OPEN:
        _OPEN[key] = dataset[index]
    return _OPEN[key]


_OPEN: dict = {}


def bare_files(dataset: Dataset, frames: FrameSamplingConfig, number: int) -> list:
    """Decode the colour and depth files of that sample, nothing else."""
    kept = []
    random = np.random.default_rng((0, number))
    sequence = opened(dataset, int(random.integers(len(dataset))))
    for frame in choose_frames(sequence, frames, random):
        source = sequence.records[frame].source
        for path in (source, depth_path(source)):
            kept.append(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED))
    return kept


def depth_path(source: Path) -> Path:
    """The depth file beside a colour file of 7-Scenes or TUM RGB-D."""
    if ".color." in source.name:
        return source.with_name(source.name.split(".color.")[0] + ".depth.png")
    return source.parent.parent / "depth" / source.name


def bare_members(dataset: Dataset, frames: FrameSamplingConfig, number: int) -> list:
    """Decode the image and depth members of that sample from a shard, nothing else."""
    kept: list = []
    random = np.random.default_rng((0, number))
    sequence = opened(dataset, int(random.integers(len(dataset))))
    chosen = tuple(f"{frame:06d}." for frame in choose_frames(sequence, frames, random))
    for suffix, (start, size) in sequence._places.items():
        if suffix.startswith(chosen):
            with sequence.path.open("rb", buffering=0) as file:
                file.seek(start)
                data = file.read(size)
            if suffix.endswith("npz"):
                with zipfile.ZipFile(io.BytesIO(data)) as arrays:
                    kept.append(arrays.read("values.npy"))
            else:
                kept.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    return kept


def rows_of(kitchen: Path, folder: Path, num_frames: int) -> list[Row]:
    """All rows of the table."""
    frames = FrameSamplingConfig(num_frames=num_frames, steps=(2,))
    sets = {"seven_scenes, real kitchen (JPEG)": open_dataset("seven_scenes", kitchen)} if kitchen.is_dir() else {}
    sets["tum_rgbd, noise (PNG)"] = open_dataset("tum_rgbd", write_tum(folder / "tum" / "rgbd_dataset_benchmark", 40).parent)
    rows: list[Row] = []
    for title, dataset in sets.items():
        rows.append((title, partial(drawn, dataset, frames), partial(bare_files, dataset, frames)))
        out = folder / f"shards-{len(rows)}"
        write_dataset(dataset, out, ShardConfig())
        shards = open_dataset("shards", out)
        rows.append((f"shards of {title}", partial(drawn, shards, frames), partial(bare_members, shards, frames)))
    first = next(iter(sets.values()))
    samples = [drawn(first, frames, number) for number in range(2)]
    floor = rows[0][2]
    for title, config in augmentations().items():
        rows.append((f"augment: {title}", lambda number, config=config: augment(samples[number % 2], config, np.random.default_rng(number)), floor))
    rows.append(("collate 1 sample", lambda number: collate([samples[number % 2]]), floor))
    return rows


def augmentations() -> dict[str, AugmentationConfig]:
    """Augmentations that are measured."""
    everything = ColourConfig(jitter_probability=1.0, clahe_probability=1.0, blur_probability=1.0, noise_probability=1.0, jpeg_probability=1.0)
    return {
        "resize to 224x224": AugmentationConfig(height=224, width=224),
        "random crop, flip, 224x224": AugmentationConfig(height=224, width=224, crop="random", crop_min_share=0.6, flip_probability=0.5),
        "shift, scale, rotate, 224x224": AugmentationConfig(height=224, width=224, shift_scale_rotate=ShiftScaleRotateConfig(probability=1.0)),
        "shift, scale, rotate, 640x480": AugmentationConfig(shift_scale_rotate=ShiftScaleRotateConfig(probability=1.0)),
        "colour jitter, 224x224": AugmentationConfig(height=224, width=224, colour=ColourConfig(jitter_probability=1.0)),
        "every colour change, 224x224": AugmentationConfig(height=224, width=224, colour=everything),
    }


def best_ms(rows: list[Row], rounds: int, num_samples: int) -> tuple[list[float], list[float]]:
    """Best time for one sample of each row, and of its floor, in ms."""
    works = [(row[1], row[2]) for row in rows]
    best = np.full((len(rows), 2), np.inf)
    for _ in range(rounds):
        for place, pair in enumerate(works):
            for side, work in enumerate(pair):
                if work is None:
                    continue
                start = time.process_time()
                for number in range(num_samples):
                    work(number)
                best[place, side] = min(best[place, side], 1000 * (time.process_time() - start) / num_samples)
    return best[:, 0].tolist(), best[:, 1].tolist()


def loader_rate(dataset: Dataset, num_frames: int, num_workers: int, num_samples: int) -> float:
    """Samples/s that a loader hands out at 224x224, workers warm."""
    source = Source("set", dataset, FrameSamplingConfig(num_frames=num_frames, steps=(2,)), AugmentationConfig(height=224, width=224))
    batches = iter(make_loader(Mixture([source]), LoaderConfig(batch_size=2, num_workers=num_workers)))
    for _ in range(2 * max(num_workers, 1) + 1):
        next(batches)
    watch = Stopwatch()
    for _ in range(num_samples // 2):
        next(batches)
    return num_samples / watch.lap()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kitchen", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "redkitchen")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = rows_of(arguments.kitchen, Path(name), arguments.frames)
        times, floors = best_ms(rows, arguments.rounds, arguments.samples)
        print(f"one thread, {arguments.frames} frames of 640x480 for each sample, best of {arguments.rounds} rounds\n")
        print("| step | ms of one core | samples/s | times the bare decoding |\n|---|---|---|---|")
        for (title, _, _), milliseconds, floor in zip(rows, times, floors, strict=True):
            print(f"| {title} | {milliseconds:.1f} | {1000 / milliseconds:.0f} | {milliseconds / floor:.2f} |")
        dataset = open_dataset("seven_scenes", arguments.kitchen) if arguments.kitchen.is_dir() else None
        if dataset is not None:
            rates = {workers: max(loader_rate(dataset, arguments.frames, workers, 24) for _ in range(2)) for workers in (0, 1, 2)}
            print("\nloader at 224x224: " + ", ".join(f"{workers} workers {rate:.0f} samples/s" for workers, rate in rates.items()))
        if arguments.json:
            table = {row[0]: {"ms": value, "floor_ms": floor} for row, value, floor in zip(rows, times, floors, strict=True)}
            arguments.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
