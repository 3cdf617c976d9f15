"""Pose of the camera in a scene that was seen before: posed RGB-D frames of the first part are learnt, the second part is looked at.

As `perception demo --frames` has it: the whole scene is the object; share of frames below 5 cm and 5 degrees and median errors of the camera's own
position and orientation (Shotton et al., CVPR 2013). Methods are compared on the same frames: dense features with `OneShotPose`, and SIFT keypoints;
the time per frame is that of their `step`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import InputError
from perception.core.types import ReferenceView
from perception.evaluation.provenance import Header
from perception.geometry import se3
from perception.io.posed_frames import PosedFrameFolder
from perception.pipelines.onboarding import OnboardingConfig
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.pose_methods import pose_methods
from perception_training.benchmarks.pose_records import pose_benchmark_score, pose_row, scored
from perception_training.benchmarks.records import Record
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, compared_header, listing_identity
from perception_training.benchmarks.sift_keypoints import SiftKeypoints


@dataclass(frozen=True, kw_only=True)
class ScenePoseConfig(Checked):
    """Which frames are learnt from and looked at."""

    num_reference_frames: Annotated[int, Range(0)] = 0
    """Frames from the first on that are learnt from; 0: the first half. The others are looked at."""
    reference_step: Annotated[int, Range(1)] = 5
    """Every n-th of them is learnt from."""
    query_step: Annotated[int, Range(1)] = 1
    """Every n-th of the others is looked at."""
    max_queries: Annotated[int, Range(0)] = 0
    """So many frames are looked at, from the first on; 0: all."""
    colour_focal_px: Annotated[float, Range(0.0, None, "px")] = 0.0
    """Focal length of the colour camera; 0: as known for the data set (525 for 7-Scenes)."""
    pose: OneShotPoseConfig = OneShotPoseConfig()
    """How the pose is found. `features` and `databases` in it are not looked at."""
    database: OnboardingConfig = OnboardingConfig()


class ScenePose(Benchmark):
    """Units are extractors."""

    name: ClassVar[str] = "scene_pose"

    def __init__(self, folder: Path, extractors: Sequence[BenchmarkFeatures | SiftKeypoints], config: ScenePoseConfig | None = None) -> None:
        self.config = config or ScenePoseConfig()
        self.frames = PosedFrameFolder(folder, self.config.colour_focal_px)
        self.methods = pose_methods(extractors, self.config.database, self.config.pose)
        half = self.config.num_reference_frames or len(self.frames) // 2
        if not 0 < half < len(self.frames):
            raise InputError(f"{folder}: {len(self.frames)} frames, {half} of them references: must leave at least one of each")
        self.references = range(0, half, self.config.reference_step)
        queries = range(half, len(self.frames), self.config.query_step)
        self.queries = queries[: self.config.max_queries] if self.config.max_queries else queries

    @cached_property
    def header(self) -> Header:
        source = listing_identity("posed frames", self.frames.folder, [path.name for path in self.frames.colour_paths])
        return compared_header(self.name, list(self.methods.values()), to_mapping(self.config), source)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(self.methods)

    def predict(self, unit: str) -> Record:
        known = self.methods[unit].learn("scene", self._views(), str(self.frames.folder))
        rows: list[dict[str, Any]] = []
        for index in self.queries:
            posed = self.frames[index]
            started = time.perf_counter()
            result = known.step(posed.frame)
            rows.append(pose_row(result, se3.inverse(posed.world_from_camera), time.perf_counter() - started))
        return {"frames": rows, "num_points": known.num_points, "num_views": len(self.references)}

    def _views(self) -> Iterator[ReferenceView]:
        for index in self.references:
            posed = self.frames[index]
            yield ReferenceView(posed.frame, se3.inverse(posed.world_from_camera))


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """One row for each extractor, with its own time per frame."""
    rows = []
    for unit, record in records.items():
        found = scored({unit: record}, position="camera")
        rows.append({**asdict(found.objects[0]), "step_p50_s": found.stream.step_p50_s, "num_points": record["num_points"]})
    together = pose_benchmark_score(scored(records, position="camera"), "recall_5cm_5deg")
    named = ("recall_5cm_5deg", "median_rotation_deg", "median_translation_cm", "step_p50_s")
    summary = {f"{row['object_name']}: {key}": float(row[key]) for row in rows for key in named}
    return BenchmarkScore(summary, next(iter(summary)), rows, together.figures)
