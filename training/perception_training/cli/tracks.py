"""Follow points through videos and write the tracks beside them.

A video is a file, or a folder of images; other folders are searched for both. What was tracked before with the same settings, weights and content
is skipped, so that an interrupted run can be started again: it loses the video that it was at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import tyro

from perception.cli.program import EXIT_ERROR
from perception.cli.progress import Steps
from perception.core.config import Checked
from perception.core.errors import ConfigError, InputError
from perception.core.timing import Stopwatch
from perception_training.data.pseudo_labels.cotracker3 import CoTracker3TrackerConfig
from perception_training.data.pseudo_labels.labelling import Labeller, QueryConfig
from perception_training.data.pseudo_labels.lucas_kanade import LucasKanadeConfig
from perception_training.data.pseudo_labels.preview import write_preview
from perception_training.data.pseudo_labels.raft import RaftConfig
from perception_training.data.pseudo_labels.tracker import create_tracker
from perception_training.data.pseudo_labels.videos import find_videos, opened_frames, size_bytes
from perception_training.data.tracks_file import read_tracks_file, tracks_path

TrackerName = Literal["cotracker3_offline", "cotracker3_online", "lucas_kanade", "raft"]


@dataclass(frozen=True)
class Arguments:
    """What to track, with what, and where to."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Video files, folders of images, or folders of these."""
    tracker: TrackerName = "lucas_kanade"
    """lucas_kanade needs no weights; the others need --weights, raft also torchvision."""
    weights: Path | None = None
    """Checkpoint of the tracker."""
    queries: tyro.conf.OmitArgPrefixes[QueryConfig] = field(default_factory=QueryConfig)
    out: Path | None = None
    """Folder of the tracks; without it they lie beside the videos."""
    skip_bad: bool = False
    """Go on after a video that cannot be read, and report it at the end."""
    preview: Path | None = None
    """Folder for pictures and videos of the tracks."""
    lucas_kanade: LucasKanadeConfig = field(default_factory=LucasKanadeConfig)
    cotracker3: CoTracker3TrackerConfig = field(default_factory=CoTracker3TrackerConfig)
    raft: RaftConfig = field(default_factory=RaftConfig)


@dataclass(frozen=True)
class _Job:
    """One video: where it lies, where its tracks go, its name below the path that was given, and why it must be tracked."""

    video: Path
    tracks: Path
    name: Path
    reason: str = ""


def run(arguments: Arguments) -> int:
    """Prints a line for each video; the exit code is 2 when one of them was bad."""
    labeller = Labeller(arguments.tracker, create_tracker(arguments.tracker, _tracker_config(arguments)), arguments.queries)
    steps, bad = Steps(), _BadVideos(arguments.skip_bad)
    jobs = _jobs(arguments.videos, arguments.out)
    stale, there = _stale_and_there(labeller, jobs, steps, bad)
    clock = _TimeLeft([size_bytes(job.video) for job in stale])
    for number, job in enumerate(stale):
        with bad.reported():
            _label(labeller, job, arguments.preview, steps, clock, number)
    if arguments.preview is not None:
        for job in there:
            with bad.reported(), steps.step(f"draw {job.tracks}") as step, opened_frames(job.video) as frames:
                step.result = str(write_preview(frames, read_tracks_file(job.tracks), arguments.preview / job.name)[0])
    steps.console.print(f"{len(jobs) - len(there) - bad.count} videos tracked, {len(there)} were there, {bad.count} bad", highlight=False)
    return EXIT_ERROR if bad.count else 0


class _BadVideos:
    """Counts videos that cannot be read and says why, or lets the error through."""

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self.count = 0

    @contextmanager
    def reported(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if not self._skip:
                raise InputError(f"{error} (--skip-bad goes on with the others)") from error
            self.count += 1
            print(f"skipped: {error}", file=sys.stderr)


class _TimeLeft:
    """How long the rest takes, if bytes of video take equally long."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes, self._watch, self._elapsed_s = sizes, Stopwatch(), 0.0

    def after(self, number: int, share: float) -> str:
        """Text about the time left when `share` of video `number` is done."""
        self._elapsed_s += self._watch.lap()
        done, total = sum(self._sizes[:number]) + share * self._sizes[number], sum(self._sizes)
        left_s = round(self._elapsed_s * (total - done) / done) if done else 0
        return f"about {timedelta(seconds=left_s)} left" if left_s else "almost done"


def _tracker_config(arguments: Arguments) -> Checked:
    """The settings of the chosen tracker, with its weights."""
    if arguments.tracker == "lucas_kanade":
        if arguments.weights is not None:
            raise ConfigError("--weights: lucas_kanade has none; allowed with cotracker3_offline, cotracker3_online and raft")
        return arguments.lucas_kanade
    config = arguments.raft if arguments.tracker == "raft" else arguments.cotracker3
    return config if arguments.weights is None else replace(config, weights=str(arguments.weights))


def _jobs(paths: tuple[Path, ...], out: Path | None) -> list[_Job]:
    """All videos once. Raises InputError when the tracks of two would go into one file."""
    if not paths:
        raise InputError("no videos: name video files, folders of images, or folders of these")
    jobs: dict[Path, _Job] = {}
    for path in paths:
        for video in find_videos(path):
            name = video.relative_to(path) if video != path else Path(video.resolve().name)
            tracks = tracks_path(video) if out is None else out / tracks_path(name)
            before = jobs.setdefault(tracks, _Job(video, tracks, name))
            if before.video.resolve() != video.resolve():
                raise InputError(f"{before.video} and {video} would both go to {tracks}: names must differ; run the command for each of them")
    return list(jobs.values())


def _stale_and_there(labeller: Labeller, jobs: list[_Job], steps: Steps, bad: _BadVideos) -> tuple[list[_Job], list[_Job]]:
    """The videos that must be tracked, with the reason, and those whose tracks are there."""
    stale, there = [], []
    with steps.step(f"look for tracks of {len(jobs)} videos") as step:
        for number, job in enumerate(jobs, 1):
            with bad.reported():
                reason = labeller.staleness(job.video, job.tracks)
                if reason is None:
                    there.append(job)
                else:
                    stale.append(replace(job, reason=reason))
            step.progress(number, len(jobs))
        step.result = f"{len(there)} are there, {len(stale)} to be made"
    return stale, there


def _label(labeller: Labeller, job: _Job, preview: Path | None, steps: Steps, clock: _TimeLeft, number: int) -> None:
    with steps.step(f"{job.video} ({job.reason})") as step, opened_frames(job.video) as frames:

        def report(done: int, total: int) -> None:
            step.progress(done, total)
            step.describe(f"{job.video}, {clock.after(number, done / total)}")

        tracks = labeller.label(job.video, frames, job.tracks, report)
        step.result = (
            f"{tracks.num_points} points through {len(frames)} frames, {tracks.visible.mean():.0%} visible → {job.tracks}; {clock.after(number, 1.0)}"
        )
        if preview is not None:
            picture, _ = write_preview(frames, tracks, preview / job.name)
            step.result += f"; {picture}"
