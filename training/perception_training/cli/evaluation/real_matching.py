"""Matches between real frames (room, redkitchen, rgbd_pair): share that is right, several extractors side by side, with their time per frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception_training.benchmarks.real_matching import RealMatching, RealMatchingConfig
from perception_training.cli.evaluation.shared import RunArguments, open_features, run_benchmark


@dataclass(frozen=True)
class Arguments:
    """Which frames and which extractors."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder that holds room, redkitchen and rgbd_pair."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    extractors: tuple[str, ...] = ("dense_sift,sift_size_px=16",)
    """Extractors with their settings, such as alike_n,weights=FILE,label=ALIKE-n."""
    pairs: RealMatchingConfig = field(default_factory=RealMatchingConfig)


def run(arguments: Arguments) -> int:
    """Prints a row for each extractor."""
    return run_benchmark(RealMatching(arguments.path, open_features(arguments.extractors), arguments.pairs), arguments.run)
