"""One-shot pose of meshes rendered into clutter: real backgrounds, occluders in front, 96 views to learn from, several methods side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from perception_training.benchmarks.clutter_pose import ClutterPose, ClutterPoseConfig
from perception_training.benchmarks.pose_methods import open_extractors
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark


@dataclass(frozen=True)
class Arguments:
    """Which meshes, backgrounds and methods."""

    meshes: Path
    """Folder of meshes, or of folders with one each."""
    backgrounds: Path
    """Folder of photographs, or of posed RGB-D frames."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    extractors: tuple[str, ...] = ("dense_sift", "nano", "sift_keypoints")
    """Extractors with their settings, such as alike_n,weights=FILE,label=ALIKE-n; sift_keypoints is SIFT + PnP."""
    frames: ClutterPoseConfig = field(default_factory=ClutterPoseConfig)


def run(arguments: Arguments) -> int:
    """Prints a row for each method and object."""
    return run_benchmark(ClutterPose(arguments.meshes, arguments.backgrounds, open_extractors(arguments.extractors), arguments.frames), arguments.run)
