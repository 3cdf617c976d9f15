"""Write a data set into webdataset shards, whole sequences or clips, exactly unless asked otherwise; a second run goes on where one was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception.cli.progress import Steps
from perception.core.config import Range
from perception.core.errors import ConfigError
from perception.core.timing import Stopwatch
from perception_training.cli.data.reader_arguments import read_reader_arguments
from perception_training.data.frame_coding import CodingConfig
from perception_training.data.shard_writing import ShardConfig, write_dataset


@dataclass(frozen=True)
class Arguments:
    """From where to where, and how."""

    path: Annotated[Path, tyro.conf.Positional]
    """The copy of the data set."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the shards."""
    frames: Annotated[int, Range(0)] = 0
    """Frames for each clip; 0 stores whole sequences."""
    step: Annotated[int, Range(1)] = 1
    """Step between the frames that are stored."""
    shard_size: float = 256.0
    """Largest size of a shard in MB, unless one clip alone is larger."""
    skip_bad: bool = False
    """Leave out clips that cannot be read, and say why, instead of stopping."""
    num_workers: int = 2
    """Processes that read and encode; 0 uses this one."""
    coding: tyro.conf.OmitArgPrefixes[CodingConfig] = field(default_factory=CodingConfig)


def main(arguments: Sequence[str], prog: str) -> int:
    """Prints progress and what was written."""
    asked = read_reader_arguments(Arguments, arguments, prog, __doc__)
    command = asked.command
    if command.num_workers < 0:
        raise ConfigError(f"--num-workers {command.num_workers}: must be 0 or more")
    config = ShardConfig(frames=command.frames, step=command.step, shard_size_mb=command.shard_size, coding=command.coding)
    steps = Steps()
    watch = Stopwatch()
    with steps.step(f"open {asked.kind.name} {command.path}") as step:
        dataset = asked.kind(command.path, asked.options)
        step.result = f"{len(dataset)} sequences"
    with steps.step(f"write shards into {command.out}") as step:
        summary = write_dataset(dataset, command.out, config, skip_bad=command.skip_bad, num_workers=command.num_workers, progress=step.progress)
        step.result = f"{summary.num_clips} clips in {summary.num_shards} shards"
    megabytes = summary.num_bytes / 1e6
    steps.console.print(f"{summary.num_clips} clips, {megabytes:.1f} MB, {len(summary.skipped)} skipped, {watch.lap():.1f} s", highlight=False)
    for reason in summary.skipped:
        steps.console.print(f"  skipped: {reason}", soft_wrap=True, highlight=False)
    return 0
