"""Nearest neighbours in point maps, as TrajVG's tracker asks for them: ours against all distances at once.

    .venv/bin/python benchmarks/nearest_neighbours.py [--frames 8] [--points 500] [--neighbours 16] [--rounds 3] [--threads 1] [--device cpu]

Prints a Markdown table. References are the cells of a wavy surface on TrajVG's four levels (frames of 518x294 px, cells of 2 px), queries lie near
it. "plain" is torch.cdist and topk. Both take turns in every round and the best counts, on a CPU in time of the processor. "largest tensor" is the
most numbers that any result of an operation has; "wrong" the share of found neighbours that are further away, in float64, than the k-th nearest:
torch.cdist expands the square, which rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from perception.ops.nearest_neighbours import nearest_neighbours

LEVELS = [(147, 259), (73, 129), (36, 64), (18, 32)]


def surface(rows: int, cols: int, frames: int) -> Tensor:
    """(frames, rows * cols, 3): a wavy surface seen from the front, another one in each frame, within about one unit."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
    phase = torch.arange(frames)[:, None, None]
    z = 0.3 * torch.sin(5 * x + phase) + 0.2 * torch.cos(7 * y - phase)
    return torch.stack([x * (1 + z), y * (1 + z), z], dim=-1).flatten(1, 2)


def all_distances(queries: Tensor, references: Tensor, k: int) -> Tensor:
    """What is usually done."""
    return torch.cdist(queries, references).topk(k, largest=False).indices


class LargestTensor(TorchDispatchMode):
    """Records the most numbers that the storage of any result has."""

    most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operation(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.most = max(self.most, value.untyped_storage().nbytes() // value.element_size())
        return result


def share_wrong(queries: Tensor, references: Tensor, found: Tensor, k: int) -> float:
    """Of the first frame."""
    distances = torch.cdist(queries[0].double(), references[0].double(), compute_mode="donot_use_mm_for_euclid_dist")
    farthest = distances.topk(k, largest=False).values[:, -1:]
    return float((distances.gather(1, found[0]) > farthest * (1 + 1e-6)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--neighbours", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    def timed(function: Callable[[Tensor, Tensor, int], Tensor], queries: Tensor, references: Tensor) -> float:
        start = time.process_time() if device.type == "cpu" else time.perf_counter()
        function(queries, references, options.neighbours)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.process_time() if device.type == "cpu" else time.perf_counter()) - start

    asked = f"{options.frames} frames, {options.points} points, {options.neighbours} neighbours"
    print(f"{asked}, {device}, {options.threads} thread(s), torch {torch.__version__}\n")
    print("| cells | plain s | ours s | plain / ours | plain, largest tensor | ours, largest tensor | plain wrong | ours wrong |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for rows, cols in LEVELS:
        references = surface(rows, cols, options.frames).to(device)
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randint(rows * cols, (options.points,), generator=generator)
        queries = references[:, chosen] + 0.02 * torch.randn(options.frames, options.points, 3, generator=generator).to(device)
        functions = (all_distances, nearest_neighbours)
        times = [[timed(function, queries, references) for function in functions] for _ in range(options.rounds)]
        plain_s, ours_s = (min(values) for values in zip(*times, strict=True))
        numbers, wrong = [], []
        for function in functions:
            with LargestTensor() as largest:
                found = function(queries, references, options.neighbours)
            numbers.append(largest.most)
            wrong.append(share_wrong(queries, references, found, options.neighbours))
        print(
            f"| {rows * cols} | {plain_s:.3f} | {ours_s:.3f} | {plain_s / ours_s:.2f} | {numbers[0] / 1e6:.2f} M | {numbers[1] / 1e6:.2f} M "
            f"| {wrong[0]:.2%} | {wrong[1]:.2%} |"
        )


if __name__ == "__main__":
    main()
