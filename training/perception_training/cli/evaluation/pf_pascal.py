"""Semantic correspondence on PF-PASCAL, pairs of different or of the same views: PCK at .05, .10 and .15 of the square image's edge."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig
from perception_training.benchmarks.pf_pascal_pairs import PfPascalBenchmark, PfPascalConfig
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark
from perception_training.data.readers.pf_pascal import PfPascal, PfPascalOptions


@dataclass(frozen=True)
class Arguments:
    """Which copy, which list and which features."""

    path: Annotated[Path, tyro.conf.Positional]
    """PF-dataset-PASCAL, or the folder that holds it; with the list of pairs."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    data: PfPascalOptions = field(default_factory=lambda: PfPascalOptions(view="different"))
    pairs: PfPascalConfig = field(default_factory=PfPascalConfig)
    features: BenchmarkFeaturesConfig = field(default_factory=BenchmarkFeaturesConfig)


def run(arguments: Arguments) -> int:
    """Prints PCK, over all and by category."""
    dataset = PfPascal(arguments.path, arguments.data)
    return run_benchmark(PfPascalBenchmark(dataset, BenchmarkFeatures(arguments.features), arguments.pairs), arguments.run)
