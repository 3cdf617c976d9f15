"""Dense correspondence between all ordered pairs of views of each sequence: APE and PCDP at 5, 10 and 20 % of the shortest edge.

NAME is a data set whose views have poses, with depth (objaverse, mesh_views, scenes, shards, ...) or points that are followed (mvimgnet, colmap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception_training.benchmarks.correspondence import Correspondence, CorrespondenceConfig
from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig
from perception_training.cli.data.reader_arguments import read_reader_arguments
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark


@dataclass(frozen=True)
class Arguments:
    """What is compared, with which features, and where the results go."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder (or file) of the copy."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    pairs: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)
    features: BenchmarkFeaturesConfig = field(default_factory=BenchmarkFeaturesConfig)


def main(arguments: Sequence[str], prog: str) -> int:
    """`perception-eval correspondence NAME PATH --out DIR ...`."""
    read = read_reader_arguments(Arguments, arguments, prog, __doc__)
    command = read.command
    dataset = read.kind(command.path, read.options)
    return run_benchmark(Correspondence(dataset, BenchmarkFeatures(command.features), command.pairs), command.run)
