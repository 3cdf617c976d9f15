"""Pi3's forward pass against a straightforward float32 form of the same network, and its memory by the number of frames.

    .venv/bin/python benchmarks/pi3_forward.py [--frames 8] [--size 224] [--rounds 3] [--threads 1] [--memory 8 16 32] [--device cpu]

Prints two Markdown tables. The network has ViT-S size (`pi3_small`) and random weights whose branches all have an effect.

Speed: the plain form is `tests/support/plain_pi3.py` (softmax of a stored matrix, all frames at once, float32). All rows take turns in every round
and the best counts, on a CPU in time of the processor, which other programs hardly disturb. "deviation" is the root mean square difference of the
points in the world from those of the plain form, over their standard deviation; the row "plain, bfloat16" has it for the plain form under autocast,
and is thus the noise of bfloat16.

Memory: the peak of a process during one forward pass under autocast, beyond what it held before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from perception.models.pi3 import Pi3, pi3_small

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the plain form lies with the tests
from tests.support.plain_pi3 import plain_forward


def random_network() -> Pi3:
    """ViT-S size; layer scales are drawn at 0.1 instead of their small starts, so that every block counts."""
    torch.manual_seed(0)
    network = Pi3(pi3_small()).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return network


def random_clip(frames: int, size: int) -> Tensor:
    """(1, frames, 3, size, size) smooth noise in [0, 1]."""
    coarse = torch.rand(frames, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")[None]


def speed_table(frames: int, size: int, rounds: int, device: torch.device) -> None:
    """Time, ratio to the plain form and deviation of every form."""
    network, images = random_network().to(device), random_clip(frames, size).to(device)

    def timed(function: Callable[[Pi3, Tensor], tuple[Tensor, ...]], half: bool) -> tuple[float, Tensor]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            start = time.process_time() if device.type == "cpu" else time.perf_counter()
            world = function(network, images)[1]
            if device.type == "cuda":
                torch.cuda.synchronize()
            return (time.process_time() if device.type == "cpu" else time.perf_counter()) - start, world.float()

    def ours(module: Pi3, clip: Tensor) -> tuple[Tensor, ...]:
        return module(clip)

    rows = {
        "plain, float32": (plain_forward, False),
        "plain, bfloat16": (plain_forward, True),
        "ours, float32": (ours, False),
        "ours, bfloat16": (ours, True),
    }
    if device.type == "cuda":
        for function, half in rows.values():
            timed(function, half)
    best, worlds = dict.fromkeys(rows, float("inf")), {}
    for _ in range(rounds):
        for name, (function, half) in rows.items():
            seconds, worlds[name] = timed(function, half)
            best[name] = min(best[name], seconds)
    reference = worlds["plain, float32"]
    print(f"\n{frames} frames of {size}x{size}, ViT-S size, {device.type}, {torch.get_num_threads()} threads\n")
    print("| form | s | times as fast | deviation |\n|---|---|---|---|")
    for name in rows:
        deviation = ((worlds[name] - reference).square().mean().sqrt() / reference.std()).item()
        print(f"| {name} | {best[name]:.2f} | {best['plain, float32'] / best[name]:.2f} | {deviation:.1e} |")


def peak_mib(frames: int, size: int, device: torch.device) -> float:
    """Memory that one forward pass takes beyond weights and images, in a process that did nothing before. MiB."""
    network, images = random_network().to(device), random_clip(frames, size).to(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        network(images[:, :1])
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            network(images)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        before = process_kib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        network(images)
        return (process_kib("VmHWM") - before) / 2**10


def process_kib(name: str) -> int:
    """A line of Linux' account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def memory_table(counts: list[int], size: int, arguments: list[str]) -> None:
    """Peak for each number of frames, each in a process of its own."""
    print("\n| frames | peak beyond weights, MiB | MiB a frame |\n|---|---|---|")
    for count in counts:
        command = [sys.executable, __file__, "--peak", "--frames", str(count), "--size", str(size), *arguments]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {count} | {peak:.0f} | {peak / count:.1f} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("frames", 8), ("size", 224), ("rounds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", action="store_true", help="print the peak of one forward pass only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.peak:
        print(peak_mib(arguments.frames, arguments.size, device))
        return
    speed_table(arguments.frames, arguments.size, arguments.rounds, device)
    memory_table(arguments.memory, arguments.size, ["--device", arguments.device, "--threads", str(arguments.threads)])


if __name__ == "__main__":
    main()
