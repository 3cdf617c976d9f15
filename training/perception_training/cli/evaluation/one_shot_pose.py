"""One-shot object pose on OnePose-LowTexture: learn each object from its first sequence, find it in its last; recall at 1, 3 and 5 cm-deg."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig
from perception_training.benchmarks.one_shot_pose import OnePoseConfig, OneShotPoseBenchmark, published_pose_config
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark
from perception_training.data.readers.onepose_lowtexture import OnePoseLowTexture, OnePoseOptions


@dataclass(frozen=True)
class Arguments:
    """Which copy, which features and which method."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder that holds lowtexture_test_data, or this folder itself."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    method: Literal["own", "published"] = "own"
    """own: the pipeline that the nodes run, with the settings below; published: exhaustive matching and EPnP in place of --frames.pose."""
    data: OnePoseOptions = field(default_factory=OnePoseOptions)
    frames: OnePoseConfig = field(default_factory=OnePoseConfig)
    features: BenchmarkFeaturesConfig = field(default_factory=BenchmarkFeaturesConfig)


def run(arguments: Arguments) -> int:
    """Prints recall and medians."""
    dataset = OnePoseLowTexture(arguments.path, arguments.data)
    config = arguments.frames if arguments.method == "own" else replace(arguments.frames, pose=published_pose_config())
    return run_benchmark(OneShotPoseBenchmark(dataset, BenchmarkFeatures(arguments.features), config), arguments.run)
