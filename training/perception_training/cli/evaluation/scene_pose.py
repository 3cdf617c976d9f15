"""Camera pose in a scene that was seen before: learn the first half of a folder of posed RGB-D frames, find the camera in the second."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception_training.benchmarks.pose_methods import open_extractors
from perception_training.benchmarks.scene_pose import ScenePose, ScenePoseConfig
from perception_training.cli.evaluation.shared import RunArguments, run_benchmark


@dataclass(frozen=True)
class Arguments:
    """Which frames and which extractors."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of frame-000000.color.jpg, .depth.png and .pose.txt."""
    run: tyro.conf.OmitArgPrefixes[RunArguments]
    extractors: tuple[str, ...] = ("dense_sift,sift_size_px=16",)
    """Extractors with their settings, such as alike_n,weights=FILE,label=ALIKE-n; sift_keypoints is SIFT + PnP."""
    frames: ScenePoseConfig = field(default_factory=ScenePoseConfig)


def run(arguments: Arguments) -> int:
    """Prints a row for each extractor."""
    return run_benchmark(ScenePose(arguments.path, open_extractors(arguments.extractors), arguments.frames), arguments.run)
