"""Learn an object from a mesh, a posed RGB or RGB-D clip (folder of frames) or a bag with poses, and write its database.

With --adapt N the features are first adapted to the object by N iterations on its own views, some of which are held back: when more of their points
are then matched rightly, the adapter is kept beside the database, otherwise the database is made without one, and the command says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception.cli.progress import Steps
from perception.pipelines.adaptation import AdaptationConfig, build_adapted_database
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.object_database import ObjectDatabase, adapter_path, checked_object_name
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.rendering.reference_sources import ReferenceConfig, open_references


@dataclass(frozen=True)
class Arguments:
    """What to learn, from what, and where to."""

    source: Annotated[Path, tyro.conf.Positional]
    """Mesh (.obj, .ply, .glb), folder of posed frames, or rosbag2 with images, intrinsics and poses."""
    name: str
    """Name of the object; it becomes part of topic names."""
    out: Path
    """File of the database, such as databases/mug.safetensors."""
    adapt: int = 0
    """Iterations that adapt the features to the object first (10 to 20 are usual); 0: none. Needs an extractor that is a network. The adapter is
    written beside the database (mug.adapter.safetensors) and used wherever that is. When it does not help on views held back, the database is made
    without it, a line says why, and the exit status is 0 all the same."""
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    database: OnboardingConfig = field(default_factory=OnboardingConfig)
    features: DenseFeaturesConfig = OneShotPoseConfig().features


def run(arguments: Arguments) -> int:
    """Prints views, points and size, and what adapting changed."""
    checked_object_name(arguments.name)
    steps = Steps()
    with steps.step(f"onboard {arguments.name!r} from {arguments.source}") as step:
        database = onboard_object(
            arguments.source,
            arguments.name,
            arguments.out,
            arguments.features,
            arguments.reference,
            arguments.database,
            step.progress,
            adapt=arguments.adapt,
            adaptation=arguments.adaptation,
        )
        step.result = describe(database, arguments.out)
    record = database.provenance.get("adaptation")
    if record is not None:
        colour = "green" if record["accepted"] else "yellow"
        steps.console.print(f"[{colour}]{record['summary']}[/{colour}]", highlight=False, soft_wrap=True)
    return 0


def onboard_object(
    source: Path,
    name: str,
    out: Path,
    features: DenseFeaturesConfig,
    reference: ReferenceConfig | None = None,
    config: OnboardingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    adapt: int = 0,
    adaptation: AdaptationConfig | None = None,
) -> ObjectDatabase:
    """Open the source, adapt the features to it by `adapt` iterations, build the database, save it to `out`."""
    views, extractor, config = open_references(str(source), reference), DenseFeatures(features), config or OnboardingConfig()
    if adapt:
        database = build_adapted_database(name, views, extractor, adapt, adaptation or AdaptationConfig(), config, progress, str(source))
    else:
        database = build_database(name, views, extractor, config, progress, str(source))
    database.save(out)
    return database


def describe(database: ObjectDatabase, path: Path) -> str:
    """Views, points, size and extent of a saved database in one line."""
    extent_cm = 100 * (database.bounds[1] - database.bounds[0])
    sides = " x ".join(f"{side:.1f}" for side in extent_cm.tolist())
    size_mb = path.stat().st_size / 1e6
    beside = adapter_path(path)
    adapter = f", adapter of {beside.stat().st_size / 1e3:.0f} kB in {beside}" if database.adapter is not None else ""
    return f"{database.num_views} views, {len(database.points)} points, {sides} cm, {size_mb:.1f} MB in {path}{adapter}"
