"""One-shot object pose on OnePose-LowTexture (He et al., NeurIPS 2022): learn an object from its first sequence, find it in its last.

Queries are every tenth frame; a pose counts at 1, 3 or 5 cm and degrees when both errors are below (strictly); shares are averaged over objects,
as OnePose++ and MEF do (qq456cvb/3DCorrEnhance evaluate.py). Differences: MEF's database holds descriptors at the keypoints of OnePose++'s
structure from motion, which is not part of the set; here the pixels of the reference crops are matched between views and triangulated with the
poses of the set, inside the object's box only. `published_pose_config` has the rest of the published method: grid of 4 px, mutual nearest
neighbours by cosine over the whole database, EPnP in RANSAC with 8 px and 10,000 iterations, and no pose with 5 inliers or fewer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera, Frame, ReferenceView
from perception.evaluation.provenance import Header
from perception.geometry import se3
from perception.geometry.camera import project
from perception.geometry.pnp import SolverConfig
from perception.ops.matching import MatcherConfig
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.pose_records import pose_benchmark_score, pose_row, scored
from perception_training.benchmarks.records import Record
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, dataset_header, evenly_chosen
from perception_training.data.readers.onepose_lowtexture import OnePoseLowTexture
from perception_training.data.sequences import FrameSequence


def published_pose_config() -> OneShotPoseConfig:
    """The published method: exhaustive search over the whole database, EPnP, no refinement, no prior; any pose with 6 inliers counts."""
    return OneShotPoseConfig(
        search="exhaustive",
        max_templates=1000,
        max_templates_per_frame=10_000,
        matcher=MatcherConfig(min_score=-1.0),
        solver=SolverConfig(method="opencv_epnp", refine=False),
        min_score=0.0,
        temporal_prior=False,
    )


@dataclass(frozen=True, kw_only=True)
class OnePoseConfig(Checked):
    """Which frames are learnt from and looked at."""

    reference_step: Annotated[int, Range(1)] = 10
    """Every n-th frame of the reference sequence is learnt from."""
    query_step: Annotated[int, Range(1)] = 10
    """Every n-th frame of the query sequence is looked at (10 as published)."""
    max_objects: Annotated[int, Range(0)] = 0
    """So many objects, evenly spaced; 0: all."""
    max_queries: Annotated[int, Range(0)] = 0
    """So many queries of each object, evenly spaced; 0: all."""
    pose: OneShotPoseConfig = OneShotPoseConfig(temporal_prior=False, min_score=0.0)
    """How the pose is found. `features` and `databases` in it are not looked at."""
    database: OnboardingConfig = OnboardingConfig()


class OneShotPoseBenchmark(Benchmark):
    """Units are objects."""

    name: ClassVar[str] = "one_shot_pose"

    def __init__(self, dataset: OnePoseLowTexture, features: BenchmarkFeatures, config: OnePoseConfig | None = None) -> None:
        self.dataset, self.features, self.config = dataset, features, config or OnePoseConfig()
        if dataset.options.role != "all":
            raise InputError(f"one_shot_pose: sequences of role {dataset.options.role!r} are opened; must be all: the references and the queries")

    @cached_property
    def header(self) -> Header:
        return dataset_header(self.name, self.features, self.dataset, self.config)

    @cached_property
    def _sequences(self) -> dict[str, list[str]]:
        """Object → its sequences."""
        found: dict[str, list[str]] = {}
        for name in self.dataset.sequence_names:
            found.setdefault(name.rpartition("/")[0], []).append(name)
        return found

    @cached_property
    def units(self) -> tuple[str, ...]:
        return evenly_chosen(list(self._sequences), self.config.max_objects)

    def predict(self, unit: str) -> Record:
        names = self._sequences[unit]
        if len(names) < 2:
            raise InputError(f"{self.dataset.root / unit}: has {len(names)} sequence; must have at least two, one to learn from and one to look at")
        roles = {self.dataset.open_sequence(name).attributes["role"]: name for name in names}
        database = self._learnt(self.dataset.open_sequence(roles["reference"]))
        pipeline = OneShotPose(self.config.pose, self.features)
        pipeline.add_object(database)
        queries = self.dataset.open_sequence(roles["query"])
        frames = evenly_chosen([str(frame) for frame in range(0, len(queries), self.config.query_step)], self.config.max_queries)
        rows = [found_pose(pipeline, queries, int(frame)) for frame in frames]
        return {"frames": rows, "num_points": len(database.points), "num_views": database.num_views}

    def _learnt(self, sequence: FrameSequence) -> ObjectDatabase:
        views = _reference_views(sequence, range(0, len(sequence), self.config.reference_step))
        try:
            return build_database("object", views, self.features, self.config.database)
        except InputError as error:
            raise InputError(f"{sequence.source(0)} and the other references: {error}") from error


def found_pose(pipeline: OneShotPose, sequence: FrameSequence, frame: int) -> dict:
    """What the pipeline says of one frame of a sequence, beside the truth of the sequence's first object."""
    sample = sequence.load([frame])
    camera = sample.cameras[0] if sample.cameras is not None else None
    if camera is None:
        raise InputError(f"{sample.place(0)}: no intrinsics; must be known for a pose")
    started = time.perf_counter()
    result = pipeline.step(Frame(sample.images[0], frame + 1, camera))
    return pose_row(result, sample.objects[0].camera_from_object[0], time.perf_counter() - started)


def _reference_views(sequence: FrameSequence, frames: range) -> Iterator[ReferenceView]:
    for frame in frames:
        sample = sequence.load([frame])
        assert sample.cameras is not None
        camera, item = sample.cameras[0], sample.objects[0]
        assert camera is not None
        assert item.bounds is not None
        pose = item.camera_from_object[0]
        mask = box_silhouette(item.bounds, pose, camera)
        if mask.any():
            yield ReferenceView(Frame(sample.images[0], frame + 1, camera, mask=mask), pose)


def box_silhouette(bounds_object: NDArray, camera_from_object: NDArray, camera: Camera) -> NDArray[np.bool_]:
    """(height, width) where a box (2, 3) is seen; nothing where one of its corners is not in front of the camera."""
    low, high = np.asarray(bounds_object, np.float64)
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    pixels = project(se3.transform_points(camera_from_object, corners), camera)
    mask = np.zeros((camera.height, camera.width), np.uint8)
    if np.isfinite(pixels).all():
        limit = 8 * max(camera.width, camera.height)
        hull = cv2.convexHull(np.clip(pixels, -limit, limit).astype(np.float32))
        cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    return mask > 0


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """Recall at 1, 3 and 5 cm and degrees, averaged over objects."""
    return pose_benchmark_score(scored(records), "recall_5cm_5deg")
