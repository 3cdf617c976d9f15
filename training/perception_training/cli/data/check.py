"""Walk a copy of a data set: load every frame, say what is there and list what is bad, each with its path.

Exit code: 0 all good, 1 something is bad (0 with --skip-bad, which a training run takes as well).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from perception.cli.progress import Steps
from perception.core.errors import InputError, PerceptionError
from perception.io.images import write_image
from perception_training.cli.data.reader_arguments import read_reader_arguments
from perception_training.data.check import FIELDS, CheckReport, check_dataset
from perception_training.data.contact_sheet import contact_sheet
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset

EXIT_BAD = 1
_MAX_WORKERS = 8
_PREVIEW_SEQUENCES, _PREVIEW_FRAMES = 4, 6


@dataclass(frozen=True)
class Arguments:
    """What is walked, and where the report goes."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder (or file) of the copy."""
    max_sequences: int = 0
    """Check so many sequences, evenly spaced; 0: all."""
    frames_per_sequence: int = 0
    """Check so many frames of each sequence, evenly spaced; 0: all."""
    num_workers: int = min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
    """Processes that load frames; 0: this one."""
    preview: Path | None = None
    """Write a picture of some samples here (PNG)."""
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write the whole report here, with every problem (JSON)."""
    num_problems: int = 20
    """List so many problems on the terminal."""
    skip_bad: bool = False
    """Bad frames are reported but are no failure."""


def main(arguments: Sequence[str], prog: str) -> int:
    """`perception-train data check NAME PATH ...`."""
    read = read_reader_arguments(Arguments, arguments, prog, __doc__)
    command = read.command
    for name in ("max_sequences", "frames_per_sequence", "num_workers", "num_problems"):
        if getattr(command, name) < 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(command, name)}: must not be negative")
    steps = Steps()
    steps.console.print(f"{read.kind.name} {command.path}", highlight=False, markup=False, soft_wrap=True)
    with steps.step("list sequences") as step:
        dataset = read.kind(command.path, read.options)
        step.result = f"{len(dataset)} sequences"
    with steps.step("load frames") as step:
        report = check_dataset(
            dataset,
            max_sequences=command.max_sequences,
            frames_per_sequence=command.frames_per_sequence,
            num_workers=command.num_workers,
            on_progress=step.progress,
        )
        step.result = f"{report.counts.num_frames} frames"
    steps.console.print(summary(report))
    _list_problems(steps, report, command.num_problems, command.json_file)
    if command.json_file is not None:
        _write_json(command.json_file, report)
        steps.console.print(f"report: {command.json_file}", highlight=False, markup=False, soft_wrap=True)
    if command.preview is not None:
        _write_preview(command.preview, dataset, report)
        steps.console.print(f"preview: {command.preview}", highlight=False, markup=False, soft_wrap=True)
    return EXIT_BAD if report.problems and not command.skip_bad else 0


def summary(report: CheckReport) -> Table:
    """What there is, as a table of two columns."""
    counts = report.counts
    table = Table("what", "found")
    table.add_row("sequences", f"{report.num_checked} checked of {report.num_sequences}")
    table.add_row("frames", f"{counts.num_frames} loaded, {report.num_bad_frames} bad")
    sizes = ", ".join(f"{width}x{height} ({count})" for (width, height), count in counts.sizes.most_common(4))
    table.add_row("image sizes", sizes + (f" and {len(counts.sizes) - 4} more" if len(counts.sizes) > 4 else "") or "-")
    for name in FIELDS:
        table.add_row(f"with {name}", f"{100 * report.share(name):.1f} %" + _detail(report, name))
    table.add_row("problems", str(len(report.problems)))
    return table


def _detail(report: CheckReport, name: str) -> str:
    """What else is known of a field."""
    counts = report.counts
    if not counts.present[name]:
        return ""
    if name == "depth":
        unit = "m" if set(counts.units) == {"metre"} else "(arbitrary unit)"
        share = 100 * counts.known_depth_share / counts.present["depth"]
        return f", {counts.depth_min:.3g} to {counts.depth_max:.3g} {unit}, known at {share:.0f} % of the pixels"
    if name == "tracks":
        return f", up to {counts.max_points} points"
    if name == "objects":
        return f", {len(counts.object_names)} different"
    return ""


def _list_problems(steps: Steps, report: CheckReport, limit: int, json_file: Path | None) -> None:
    for problem in report.problems[:limit]:
        steps.console.print(f"✗ {problem.sequence} {problem.frame}: {problem.message}", highlight=False, markup=False, soft_wrap=True)
    if len(report.problems) > limit:
        where = f"all in {json_file}" if json_file is not None else "--json FILE writes them all"
        steps.console.print(f"… and {len(report.problems) - limit} more; {where}", highlight=False, markup=False)


def _write_json(path: Path, report: CheckReport) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"report {path}: cannot be written ({error.strerror})") from error


def _write_preview(path: Path, dataset: Dataset, report: CheckReport) -> None:
    samples = list(_preview_samples(dataset, report))
    if not samples:
        raise InputError(f"preview {path}: not one good frame was found; there is nothing to show")
    write_image(path, contact_sheet(samples, _PREVIEW_FRAMES))


def _preview_samples(dataset: Dataset, report: CheckReport) -> Iterator[Sample]:
    """Good frames of some sequences, evenly spaced."""
    names = [name for name, frames in report.good_frames.items() if frames]
    for name in names[:: max(1, -(-len(names) // _PREVIEW_SEQUENCES))]:
        frames = report.good_frames[name]
        chosen = frames[:: max(1, -(-len(frames) // _PREVIEW_FRAMES))]
        try:
            yield dataset.open_sequence(name).load(chosen)
        except PerceptionError:
            continue  # frames that are good one by one need not fit together, and the report does not depend on the picture
