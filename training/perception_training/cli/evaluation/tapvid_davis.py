"""Point tracking on TAP-Vid-DAVIS, queries first and strided: average Jaccard, average share of points within, occlusion accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig
from perception_training.benchmarks.tapvid_davis import TapVidConfig, TapVidDavisBenchmark
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark
from perception_training.data.readers.tapvid_davis import TapVidDavis, TapVidOptions


@dataclass(frozen=True)
class Arguments:
    """Which copy, which features and which tracker settings."""

    path: Annotated[Path, tyro.conf.Positional]
    """tapvid_davis.pkl or its folder."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    cache: Path | None = None
    """Folder for the unpacked copy; default: beside the pickle."""
    tracks: TapVidConfig = field(default_factory=TapVidConfig)
    features: BenchmarkFeaturesConfig = field(default_factory=BenchmarkFeaturesConfig)


def run(arguments: Arguments) -> int:
    """Prints the scores of both kinds of queries."""
    dataset = TapVidDavis(arguments.path, TapVidOptions(cache="" if arguments.cache is None else str(arguments.cache)))
    return run_benchmark(TapVidDavisBenchmark(dataset, BenchmarkFeatures(arguments.features), arguments.tracks), arguments.run)
