"""Descriptor matching against a plain matrix product with argmax and against OpenCV's brute-force matcher, in one run.

    .venv/bin/python benchmarks/matching.py [--queries 16384 --references 130000 --dim 384 --trials 3]

The plain product would take num_queries x num_references floats of memory, and OpenCV would take minutes: both get the share of the queries that is
printed, and their times are scaled up by it. Work grows in proportion to the number of queries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from perception.ops.matching import MatcherConfig, Matches, match_descriptors


def descriptors(num: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors around 200 common directions, as descriptors of natural images have them."""
    common = torch.randn(200, dim, generator=generator)
    values = common[torch.randint(200, (num,), generator=generator)] + 1.5 * torch.randn(num, dim, generator=generator)
    return torch.nn.functional.normalize(values, dim=1)


def plain_product(query: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    score = query @ reference.T
    return score.argmax(dim=1), score.argmax(dim=0)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def shares_equal(query: torch.Tensor, reference: torch.Tensor, found: Matches, rows: int) -> float:
    """Share of the first `rows` queries for which the match is the exact nearest neighbour."""
    exact, _ = plain_product(query[:rows], reference)
    chosen = found.query_index < rows
    return float((exact[found.query_index[chosen]].numpy() == found.reference_index[chosen]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=16_384)
    parser.add_argument("--references", type=int, default=130_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--plain-queries", type=int, default=2048)
    parser.add_argument("--opencv-queries", type=int, default=128)
    parser.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    reference = descriptors(arguments.references, arguments.dim, generator)
    picked = torch.randperm(arguments.references, generator=generator)[: arguments.queries]
    query = torch.nn.functional.normalize(reference[picked] + 0.03 * torch.randn(len(picked), arguments.dim, generator=generator), dim=1)
    stored = reference.half()
    plain_rows, opencv_rows = min(arguments.plain_queries, len(query)), min(arguments.opencv_queries, len(query))
    matcher = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True)
    found = match_descriptors(query[:plain_rows], stored, MatcherConfig(mutual=False, min_score=-1.0))
    print(f"{len(query)} x {len(reference)} x {arguments.dim}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"equal to exact float32 on the stored descriptors: {100 * shares_equal(query, stored.float(), found, plain_rows):.3f} %")
    rows = []
    for _ in range(arguments.trials):  # in turn, so that a busy machine slows all of them
        ours = seconds(lambda: match_descriptors(query, stored, MatcherConfig(precision="float32")))
        half = seconds(lambda: match_descriptors(query, stored, MatcherConfig(precision="bfloat16")))
        plain = seconds(lambda: plain_product(query[:plain_rows], reference)) * len(query) / plain_rows
        opencv = seconds(lambda: matcher.match(query[:opencv_rows].numpy(), reference.numpy())) * len(query) / opencv_rows
        rows.append((ours, half, plain, opencv))
        others = f"plain {plain:.2f} s (scaled from {plain_rows}) · OpenCV {opencv:.2f} s (scaled from {opencv_rows})"
        print(f"ours {ours:.2f} s, in bfloat16 {half:.2f} s · {others}", flush=True)
    ours, half, plain, opencv = np.median(rows, axis=0)
    print(f"median ratio: {plain / ours:.1f}x of plain product, {opencv / ours:.1f}x of cv2.BFMatcher, {half / ours:.1f}x of ours in bfloat16")


if __name__ == "__main__":
    main()
