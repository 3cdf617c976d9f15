"""One-shot object pose on YCB-Video or any BOP set, learnt from renders of the meshes: average recall of VSD, MSSD and MSPD over the targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception_training.benchmarks.bop_pose import BopPose, BopPoseConfig
from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark
from perception_training.data.readers.bop import TARGET_FILES, Bop, BopOptions


@dataclass(frozen=True)
class Arguments:
    """Which set, which features and where the results go."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of the set, such as ycbv: models, test and test_targets_bop19.json."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    databases: Path | None = None
    """Folder where the databases of the objects are kept; default: databases in --out. Databases of other features or settings lie side by side."""
    split: str = ""
    """Folder of the split; empty: every test split."""
    models: str = "models"
    """Folder of the models that are rendered; errors are measured with models_eval where the set has it."""
    sensor: str = ""
    """Ending of the annotation files in sets with several sensors."""
    pose: BopPoseConfig = field(default_factory=BopPoseConfig)
    features: BenchmarkFeaturesConfig = field(default_factory=BenchmarkFeaturesConfig)


def run(arguments: Arguments) -> int:
    """Prints the average recall, over all and by object."""
    with_targets = any((arguments.path / name).is_file() for name in TARGET_FILES)
    options = BopOptions(split=arguments.split, targets_only=with_targets, models=arguments.models, sensor=arguments.sensor)
    databases = arguments.databases or arguments.run.out / "databases"
    benchmark = BopPose(Bop(arguments.path, options), BenchmarkFeatures(arguments.features), databases, arguments.pose)
    return run_benchmark(benchmark, arguments.run)
