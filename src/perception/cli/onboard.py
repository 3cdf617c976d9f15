"""Learn an object from a mesh, a posed RGB or RGB-D clip (folder of frames) or a bag with poses, and write its database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from perception.cli.progress import Steps
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.object_database import ObjectDatabase, checked_object_name
from perception.pipelines.onboarding import OnboardingConfig, build_database
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
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    database: OnboardingConfig = field(default_factory=OnboardingConfig)
    features: DenseFeaturesConfig = field(default_factory=DenseFeaturesConfig)


def run(arguments: Arguments) -> int:
    """Prints views, points and size."""
    checked_object_name(arguments.name)
    with Steps().step(f"onboard {arguments.name!r} from {arguments.source}") as step:
        database = onboard_object(
            arguments.source, arguments.name, arguments.out, arguments.features, arguments.reference, arguments.database, step.progress
        )
        step.result = describe(database, arguments.out)
    return 0


def onboard_object(
    source: Path,
    name: str,
    out: Path,
    features: DenseFeaturesConfig,
    reference: ReferenceConfig | None = None,
    config: OnboardingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ObjectDatabase:
    """Open the source, build the database, save it to `out`."""
    views = open_references(str(source), reference)
    database = build_database(name, views, DenseFeatures(features), config or OnboardingConfig(), progress, str(source))
    database.save(out)
    return database


def describe(database: ObjectDatabase, path: Path) -> str:
    """Views, points, size and extent of a saved database in one line."""
    extent_cm = 100 * (database.bounds[1] - database.bounds[0])
    sides = " x ".join(f"{side:.1f}" for side in extent_cm.tolist())
    size_mb = path.stat().st_size / 1e6
    return f"{database.num_views} views, {len(database.points)} points, {sides} cm, {size_mb:.1f} MB in {path}"
