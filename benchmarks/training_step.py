"""What the training engine adds to a step: bare torch loop against `loop.trainer`, in float32 and bfloat16, with and without running mean and logs.

    .venv/bin/python benchmarks/training_step.py [--width 64] [--blocks 6] [--size 160] [--batch 4] [--rounds 5] [--steps 8] [--device cpu]

Prints a Markdown table. The bare loop has forward, backward and AdamW, and reads the loss. All rows take turns in every round on the same batch; the
median step of the best round counts, on a CPU in time of the processor, which other programs hardly disturb (set OMP_NUM_THREADS=1 for it).
"checkpoint" is the time to write weights, running mean and optimiser state to this disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from perception_training.loop.checkpoints import save_checkpoint
from perception_training.loop.config import OptimiserConfig, TrainConfig
from perception_training.loop.distribution import Place
from perception_training.loop.logs import Display, Log
from perception_training.loop.run_folder import RunFolder
from perception_training.loop.task import Losses, Task
from perception_training.loop.trainer import Trainer

Step = Callable[[], object]


class Convolutions(Task):
    """A residual stack of 3x3 convolutions that reproduces its input, always on one batch: only the step is measured."""

    def __init__(self, width: int, blocks: int, batch: Tensor) -> None:
        parts = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU()) for _ in range(blocks)]
        self.module = nn.Sequential(nn.Conv2d(3, width, 4, 4), *parts, nn.Conv2d(width, 3, 1))
        self.batch = batch

    def data(self, start: int, rank: int, world_size: int) -> Iterator[Tensor]:
        while True:
            yield self.batch

    def losses(self, batch: Tensor) -> Losses:
        return {"fit": (1.0, (self.module(batch) - batch[..., ::4, ::4]).square().mean())}


def bare_step(task: Convolutions, config: TrainConfig, device: torch.device) -> Step:
    """Forward, backward, optimiser, reading the loss; nothing else."""
    task.module.to(device)
    optimiser = torch.optim.AdamW(task.module.parameters(), lr=config.optimiser.learning_rate)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = task.losses(task.batch.to(device))["fit"][1]
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.item()

    return step


def engine_step(task: Convolutions, config: TrainConfig, device: torch.device, folder: RunFolder, logs: bool) -> tuple[Step, Trainer]:
    """The same by the engine, with a line of the logs after every step where `logs`."""
    trainer = Trainer(task, config, Place(device))
    log = Log(folder.log, folder.tensorboard, 0) if logs else None
    display = Display(0, config.steps, is_shown=False)

    def step() -> None:
        figures = trainer.run_step(folder)
        if log is not None:
            log.write(trainer.step, {"loss": figures.loss, "losses": dict(figures.losses), "gradient_norm": figures.gradient_norm})
            display.figures(trainer.step, {"loss": figures.loss, "losses": figures.losses, "samples_per_s": 1.0})

    return step, trainer


def best_median_s(steps: dict[str, Step], rounds: int, count: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median time of a step in the best round; the rows take turns step by step."""
    best = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(count):
            for name, step in steps.items():
                start = clock()
                step()
                times[name].append(clock() - start)
        best = {name: min(best[name], median(times[name])) for name in steps}
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 64), ("blocks", 6), ("size", 160), ("batch", 4), ("rounds", 5), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    batch = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    config = TrainConfig(
        steps=10**6, batch_size=arguments.batch, precision="float32", device=device.type, optimiser=OptimiserConfig(learning_rate=1e-4)
    )
    kept = replace(config, ema_decay=0.999, clip_norm=1.0)

    def task() -> Convolutions:
        return Convolutions(arguments.width, arguments.blocks, batch)

    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        logged, trainer = engine_step(task(), kept, device, folder, logs=True)
        steps = {
            "bare, float32": bare_step(task(), config, device),
            "engine, float32": engine_step(task(), config, device, folder, logs=False)[0],
            "engine, float32, running mean, clipping, a line of the logs each step": logged,
            "bare, bfloat16": bare_step(task(), replace(config, precision="bfloat16"), device),
            "engine, bfloat16": engine_step(task(), replace(config, precision="bfloat16"), device, folder, logs=False)[0],
        }
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        found = best_median_s(steps, arguments.rounds, arguments.steps, clock)
        start = time.perf_counter()
        save_checkpoint(folder.checkpoints, 1, *trainer.checkpoint_files(), keep=1)
        checkpoint_s = time.perf_counter() - start
    weights = sum(parameter.numel() for parameter in trainer.task.module.parameters())
    print(f"{weights:,} weights, batch {arguments.batch} of {arguments.size}x{arguments.size} on {device}, {torch.get_num_threads()} threads\n")
    print("| step | ms | added to bare, ms | images/s |\n|---|---|---|---|")
    for row, seconds in found.items():
        bare = found["bare, bfloat16" if "bfloat16" in row else "bare, float32"]
        print(f"| {row} | {1e3 * seconds:.2f} | {1e3 * (seconds - bare):+.2f} | {arguments.batch / seconds:.1f} |")
    print(f"| checkpoint | {1e3 * checkpoint_s:.1f} | | |")


if __name__ == "__main__":
    main()
