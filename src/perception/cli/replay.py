"""Run the pipelines on a bag without ROS: predictions, an output bag that Foxglove and RViz open, pictures and report.html."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from perception.cli.progress import Steps
from perception.evaluation.replay import ReplayConfig, features_only, pipeline_header, replay_bag
from perception.evaluation.report import write_report
from perception.evaluation.score import score_table
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig


@dataclass(frozen=True)
class Arguments:
    """Which bag, which objects, which settings."""

    bag: Annotated[Path, tyro.conf.Positional]
    """rosbag2 folder, .mcap or .db3 file."""
    out: Path
    """Folder of the results."""
    databases: tuple[Path, ...] = ()
    """Object databases to look for (see `perception onboard`); none: features only."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    pose: OneShotPoseConfig = field(default_factory=OneShotPoseConfig)


def run(arguments: Arguments) -> int:
    """Prints the table and the report's path."""
    steps = Steps()
    paths = (*arguments.pose.databases, *(str(path) for path in arguments.databases))
    config = replace(arguments.pose, databases=paths)
    header = pipeline_header(config, arguments.replay, arguments.bag, paths)
    with steps.step(f"replay {arguments.bag}") as step:
        pipeline_step = OneShotPose(config).step if paths else features_only(DenseFeatures(config.features))
        summary = replay_bag(arguments.bag, pipeline_step, arguments.replay, arguments.out, header, progress=step.progress)
        step.result = f"{summary.num_frames} frames" + (f", {summary.num_refused} refused" if summary.num_refused else "")
    path, score = write_report(arguments.out, header)
    steps.console.print(score_table(score))
    steps.console.print(f"report: {path.resolve()}", soft_wrap=True, highlight=False)
    return 0
