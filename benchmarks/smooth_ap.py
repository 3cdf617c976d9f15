"""SmoothAP in blocks against the plain form of the same loss, forward and backward, in turn: time, peak memory, difference of loss and gradient.

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/smooth_ap.py [--points 3000 --dims 384,768 --trials 3]

The plain form is what a straightforward program does (as the released code of MEF): matrices of (positive pairs x points) kept until backward.
Dense: two views show the same surface, all points seen in both, as on a small object. Sparse: most points have no partner. Memory is what the peak
of the process grows by in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from perception.ops.smooth_ap import smooth_ap_loss

POSITIVE_BELOW, NEGATIVE_ABOVE, TEMPERATURE = 5e-3, 0.1, 0.01
RADII = {"dense": 0.15, "sparse": 0.5}
"""Of the sphere on which the points lie, by density of positives."""


def problem(num: int, dim: int, density: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    base = torch.randn(3, dim, generator=random)

    def view() -> tuple[Tensor, Tensor]:
        points = normalize(torch.randn(1, num, 3, generator=random), dim=-1) * RADII[density]
        return normalize(torch.sin(4 * points @ base) + 0.3 * torch.randn(1, num, dim, generator=random), dim=-1), points

    (query, query_points), (item, item_points) = view(), view()
    return query.requires_grad_(), item.requires_grad_(), query_points, item_points


def plain_mef_code(query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor) -> Tensor:
    distance = torch.cdist(query_points[0], item_points[0])
    row, col = torch.nonzero(distance < POSITIVE_BELOW, as_tuple=True)
    score = query[0] @ item[0].T
    positive, of_row, negative = score[row, col][:, None], score[row], (distance > NEGATIVE_ABOVE)[row]
    above_one = (torch.sigmoid((of_row - 1) / TEMPERATURE) * negative).sum(1)
    above_positive = (torch.sigmoid((of_row - positive) / TEMPERATURE) * negative).sum(1)
    first = 1 + torch.sigmoid((positive[:, 0] - 1) / TEMPERATURE)
    second = 1 + torch.sigmoid((1 - positive[:, 0]) / TEMPERATURE)
    return (1 - (first / (first + above_one) + second / (second + above_positive)) / 2).mean()


def plain_brown(query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor) -> Tensor:
    distance = torch.cdist(query_points[0], item_points[0])
    is_positive = distance < POSITIVE_BELOW
    row, col = torch.nonzero(is_positive, as_tuple=True)
    score = query[0] @ item[0].T
    above = torch.sigmoid((score[row] - score[row, col][:, None]) / TEMPERATURE)
    head = 0.5 + (above * is_positive[row]).sum(1)  # the positive itself counts sigmoid(0)
    precision = head / (head + (above * (distance > NEGATIVE_ABOVE)[row]).sum(1))
    count = is_positive.sum(1)
    by_query = torch.zeros_like(score[:, 0]).index_add(0, row, 1 - precision) / count.clamp(min=1)
    return by_query.sum() / (count > 0).sum()


PLAIN = {"mef_code": plain_mef_code, "brown": plain_brown}


def step(kind: str, form: str, arguments: tuple[Tensor, ...]) -> tuple[Tensor, float]:
    """Loss and gradients as one vector, and the seconds of forward and backward."""
    for leaf in arguments[:2]:
        leaf.grad = None
    start = time.perf_counter()
    if kind == "plain":
        loss = PLAIN[form](*arguments)
    else:
        settings = dict(positive_below=POSITIVE_BELOW, negative_above=NEGATIVE_ABOVE, temperature=TEMPERATURE)
        loss = smooth_ap_loss(*arguments, form=form, **settings).loss  # type: ignore[arg-type]
    loss.backward()
    seconds = time.perf_counter() - start
    return torch.cat([loss.detach()[None], *(leaf.grad.flatten() for leaf in arguments[:2])]), seconds  # type: ignore[union-attr]


def print_peak(kind: str, form: str, num: int, dim: int, density: str) -> None:
    """Only this, in a process of its own: growth of the peak by one step, in MB."""
    arguments = problem(num, dim, density)
    step(kind, form, problem(50, dim, density))  # libraries come into memory
    before = peak_kb()
    step(kind, form, arguments)
    print((peak_kb() - before) / 1024)


def peak_kb() -> int:
    """Largest resident memory so far. (getrusage would begin with the peak of the parent.)"""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def peak_mb(*settings: object) -> float:
    command = [sys.executable, __file__, "--peak", ",".join(str(value) for value in settings)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(form: str, num: int, dim: int, density: str, trials: int) -> None:
    arguments = problem(num, dim, density)
    num_positives = int((torch.cdist(*arguments[2:]) < POSITIVE_BELOW).sum())
    times = []
    for _ in range(trials):  # in turn, so that a busy machine slows both
        (ours, our_s), (plain, plain_s) = step("ours", form, arguments), step("plain", form, arguments)
        times.append((our_s, plain_s))
    our_s, plain_s = np.min(times, axis=0)
    difference = float((ours - plain).abs().max()), float((ours[0] - plain[0]).abs())
    memory = [peak_mb(kind, form, num, dim, density) for kind in ("ours", "plain")]
    print(
        f"{form:8} {num} points x {dim} {density:6} {num_positives:6} positives: ours {our_s:6.3f} s {memory[0]:6.0f} MB · "
        f"plain {plain_s:6.3f} s {memory[1]:6.0f} MB · {plain_s / our_s:4.1f} times faster · "
        f"loss differs by {difference[1]:.1e}, gradient by {difference[0]:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--dims", default="384,768")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        kind, form, num, dim, density = arguments.peak.split(",")
        print_peak(kind, form, int(num), int(dim), density)
        return
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, float32, forward and backward")
    for form in PLAIN:
        for dim in map(int, arguments.dims.split(",")):
            for density in RADII:
                measure(form, arguments.points, dim, density, arguments.trials)


if __name__ == "__main__":
    main()
