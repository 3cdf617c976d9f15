"""Time of rendering clips of procedural scenes: images and truth, each alone, trajectories, and finished clips with effects.

    .venv/bin/python benchmarks/procedural_scenes.py [--device cuda] [--clips 6] [--batch 1] [--size 224] [--frames 8] [--threads 2] [--repeats 3]

Prints a Markdown table: milliseconds per clip and clips per second (best of the rounds, in which everything runs in turn), and the time of all
cores together, which other work on the machine disturbs less. Laying out a scene (textures above all) is timed apart, once. On a GPU the clock
stops when the device is done.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from perception_training.data.synthetic.scenes.clips import render_clips
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.generator import make_scenes
from perception_training.data.synthetic.scenes.render import render
from perception_training.data.synthetic.scenes.scene import Kind, SceneBatch
from perception_training.data.synthetic.scenes.trajectories import trajectories

LAYOUTS = {"room": (1.0, 0.0, 0.0), "table top": (0.0, 1.0, 0.0), "outdoors": (0.0, 0.0, 1.0)}
NUM_TRACKS = 1024


def seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Duration of one call, until the device is done, and the time that the cores spent on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, start_of_cores = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - start_of_cores


def queries(scene: SceneBatch) -> torch.Tensor:
    """(B, NUM_TRACKS, 3) random pixels of all frames."""
    random = torch.Generator().manual_seed(0)
    height, width = scene.image_size
    upper = torch.tensor([scene.num_frames, width, height], dtype=torch.float64)
    return (torch.rand(scene.num_clips, NUM_TRACKS, 3, generator=random, dtype=torch.float64) * upper).floor()


def rows(config: ScenesConfig, scenes: list[SceneBatch], batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Row title → work on all scenes."""
    pixels = [queries(scene).to(device) for scene in scenes]
    seeds = list(range(batch * len(scenes)))
    return {
        "images and truth": lambda: [render(scene) for scene in scenes],
        "images": lambda: [render(scene, truth=False) for scene in scenes],
        "truth": lambda: [render(scene, images=False) for scene in scenes],
        f"{NUM_TRACKS} trajectories": lambda: [trajectories(scene, points) for scene, points in zip(scenes, pixels, strict=True)],
        f"finished clips, {config.samples_per_pixel} rays a pixel": lambda: [
            render_clips(config, seeds[start : start + batch], device) for start in range(0, len(seeds), batch)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=6, help="clips of each kind of scene")
    parser.add_argument("--batch", type=int, default=1, help="clips rendered in one call")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--unfinished", action="store_true", help="leave finished clips out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    base = ScenesConfig(height=arguments.size, width=arguments.size, num_frames=arguments.frames)
    size, batch = arguments.size, arguments.batch
    print(f"{arguments.frames} frames of {size}x{size}, {batch} clip(s) in a call, torch {torch.__version__} on {device}\n")
    print("| scene | work | ms per clip | clips/s | ms of all cores |\n|---|---|---|---|---|")
    for name, (room, table_top, outdoors) in LAYOUTS.items():
        config = replace(base, room_weight=room, table_top_weight=table_top, outdoors_weight=outdoors)
        seeds = list(range(arguments.clips // arguments.batch * arguments.batch))
        start = time.perf_counter()
        scenes = [make_scenes(config, seeds[first : first + arguments.batch], device=device) for first in range(0, len(seeds), arguments.batch)]
        lay_out = (time.perf_counter() - start) / len(seeds)
        numbers = [int((scene.kind != Kind.NONE).sum()) / scene.num_clips for scene in scenes]
        lights = sum(float((scene.light_colour > 0).any(2).sum()) / scene.num_clips for scene in scenes) / len(scenes)
        work = rows(config, scenes, arguments.batch, device)
        if arguments.unfinished:
            work.popitem()
        best = dict.fromkeys(work, (float("inf"), float("inf")))
        for _ in range(arguments.repeats):
            for title, call in work.items():
                wall, cores = seconds(call, device)
                best[title] = min(best[title][0], wall / len(seeds)), min(best[title][1], cores / len(seeds))
        title = f"{name}: {min(numbers):.0f} to {max(numbers):.0f} primitives, {lights:.1f} lights"
        print(f"| {title} | laying out, textures included | {1e3 * lay_out:.0f} | {1 / lay_out:.1f} | |")
        for row, (wall, cores) in best.items():
            print(f"| | {row} | {1e3 * wall:.1f} | {1 / wall:.1f} | {1e3 * cores:.1f} |", flush=True)


if __name__ == "__main__":
    main()
