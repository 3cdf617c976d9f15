"""Render training data with exact ground truth: views of meshes (for the reader `objaverse`), or without one procedural scenes (for `shards`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from perception.cli.progress import Steps
from perception.core.config import Range
from perception.core.errors import ConfigError
from perception.io.images import write_image
from perception_training.data.contact_sheet import contact_sheet
from perception_training.data.readers import open_dataset
from perception_training.data.sample import Sample
from perception_training.data.sequences import FrameSequence
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.mesh_views.views import find_meshes
from perception_training.data.synthetic.mesh_views.writing import RenderReport, write_mesh_views
from perception_training.data.synthetic.scene_shards import write_scenes
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import render_clip

PREVIEW_FILE = "preview.png"
_PREVIEW_OBJECTS, _PREVIEW_VIEWS, _PREVIEW_CLIPS = 4, 6, 3


@dataclass(frozen=True)
class Arguments:
    """What to render and where to."""

    meshes: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Meshes (.obj, .ply, .glb) or folders of them; none: procedural scenes."""
    out: Path | None = None
    """Folder to write to. A run that was interrupted goes on where it stopped."""
    preview: bool = False
    """Write a contact sheet, preview.png, in the folder; without --out only a few views or clips are rendered, and it lies in this folder."""
    seed: int = 0
    """Of lights, backgrounds and scenes."""
    skip_bad: bool = False
    """Go on after a mesh that cannot be rendered, and count it."""
    num_clips: Annotated[int, Range(1)] = 100
    """Clips of procedural scenes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where procedural scenes are rendered; auto: on a GPU where there is one."""
    views: MeshViewsConfig = field(default_factory=MeshViewsConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)


def run(arguments: Arguments) -> int:
    """Prints what was rendered, which meshes are bad, and where the preview lies."""
    if arguments.out is None and not arguments.preview:
        raise ConfigError("render: neither --out DIR nor --preview is given; must be at least one of them")
    steps = Steps()
    samples = render_meshes(arguments, steps) if arguments.meshes else render_scenes(arguments, steps)
    if arguments.preview:
        path = (arguments.out or Path()) / PREVIEW_FILE
        write_image(path, contact_sheet(samples, _PREVIEW_VIEWS))
        print(path)
    return 0


def render_meshes(arguments: Arguments, steps: Steps) -> list[Sample]:
    """Render into --out, if there is one; samples for the preview, if there is to be one."""
    paths = [path for root in arguments.meshes for path in find_meshes(root)]
    if arguments.out is None:
        with steps.step(f"render views of {min(len(paths), _PREVIEW_OBJECTS)} of {len(paths)} meshes") as step:
            samples = [_some_views(MeshViews(path, arguments.views, arguments.seed)) for path in paths[:_PREVIEW_OBJECTS]]
            step.result = f"{sum(map(len, samples))} views"
        return samples
    with steps.step(f"render {arguments.views.num_views} views of {len(paths)} meshes") as step:
        report = write_mesh_views(paths, arguments.out, arguments.views, arguments.seed, skip_bad=arguments.skip_bad, progress=step.progress)
        step.result = describe(report, arguments.out)
    for message in report.bad:
        print(f"skipped: {message}")
    if not arguments.preview:
        return []
    dataset = open_dataset("objaverse", arguments.out)
    names = [name for name in (*report.rendered, *report.complete) if name in dataset.sequence_names][:_PREVIEW_OBJECTS]
    return [_some_views(dataset.open_sequence(name)) for name in names]


def render_scenes(arguments: Arguments, steps: Steps) -> list[Sample]:
    """As `render_meshes`, for clips of the seeds --seed and following."""
    if arguments.out is None:
        seeds = range(arguments.seed, arguments.seed + min(arguments.num_clips, _PREVIEW_CLIPS))
        samples: list[Sample] = []
        with steps.step(f"render {len(seeds)} clips of procedural scenes") as step:
            for seed in seeds:
                samples.append(render_clip(arguments.scenes, seed))
                step.progress(len(samples), len(seeds))
            step.result = f"{sum(map(len, samples))} frames"
        return samples
    seeds = range(arguments.seed, arguments.seed + arguments.num_clips)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    with steps.step(f"render {len(seeds)} clips of procedural scenes ({device})") as step:
        summary = write_scenes(arguments.out, arguments.scenes, seeds, device=device, progress=step.progress)
        step.result = f"{summary.num_clips} clips in {summary.num_shards} shards in {arguments.out}, {summary.num_bytes / 1e6:.1f} MB"
    if not arguments.preview:
        return []
    dataset = open_dataset("shards", arguments.out)
    return [_some_views(dataset[index]) for index in range(min(len(dataset), _PREVIEW_CLIPS))]


def _some_views(sequence: FrameSequence) -> Sample:
    return sequence.load(np.linspace(0, len(sequence) - 1, min(len(sequence), _PREVIEW_VIEWS)).round().astype(int).tolist())


def describe(report: RenderReport, out: Path) -> str:
    """How many objects were rendered, complete before and bad."""
    parts = [f"{len(report.rendered)} objects rendered"]
    if report.complete:
        parts.append(f"{len(report.complete)} were complete")
    if report.bad:
        parts.append(f"{len(report.bad)} bad")
    return f"{', '.join(parts)} in {out}"
