"""Ways to a pose from reference views that benchmarks compare: dense features with our pipeline, and SIFT keypoints with PnP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import yaml

from perception.core.config import from_mapping
from perception.core.errors import ConfigError
from perception.core.types import Frame, PoseResult, ReferenceView
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig
from perception_training.benchmarks.image_features import BenchmarkFeatures, features_from_text
from perception_training.benchmarks.sift_keypoints import SiftKeypoints, SiftKeypointsConfig

SIFT_KEYPOINTS = "sift_keypoints"
"""Name that stands for SIFT keypoints where extractors are listed."""


class KnownObject(Protocol):
    """An object that was learnt."""

    @property
    def num_points(self) -> int:
        """Descriptors that are kept of it."""

    def step(self, frame: Frame) -> PoseResult:
        """Its pose in one frame with camera."""


class PoseMethod(Protocol):
    """Learns objects from views of known pose."""

    @property
    def label(self) -> str:
        """Name in tables and plots."""

    def identity(self) -> dict[str, Any]:
        """What its answers depend on."""

    def learn(self, name: str, views: Iterable[ReferenceView], source: str = "") -> KnownObject:
        """An object from its views. Raises InputError when they show nothing of it."""


class DenseFeaturesMethod:
    """Dense features and the pipeline that the nodes run."""

    def __init__(self, features: BenchmarkFeatures, database: OnboardingConfig, pose: OneShotPoseConfig) -> None:
        self.features, self.database, self.pose = features, database, pose

    @property
    def label(self) -> str:
        return self.features.label

    def identity(self) -> dict[str, Any]:
        return self.features.identity()

    def learn(self, name: str, views: Iterable[ReferenceView], source: str = "") -> DenseObject:
        database = build_database(name, views, self.features, self.database, source=source)
        pipeline = OneShotPose(self.pose, self.features)
        pipeline.add_object(database)
        return DenseObject(pipeline, len(database.points))


class DenseObject:
    """A pipeline that knows one object."""

    def __init__(self, pipeline: OneShotPose, num_points: int) -> None:
        self.num_points, self.step = num_points, pipeline.step


def pose_methods(
    extractors: Sequence[BenchmarkFeatures | SiftKeypoints], database: OnboardingConfig, pose: OneShotPoseConfig
) -> dict[str, PoseMethod]:
    """Label → method. Raises ConfigError when two have one label."""
    methods: dict[str, PoseMethod] = {}
    for item in extractors:
        methods[item.label] = item if isinstance(item, SiftKeypoints) else DenseFeaturesMethod(item, database, pose)
    if len(methods) < len(extractors):
        raise ConfigError(f"extractors {', '.join(item.label for item in extractors)}: names must differ; give them labels")
    return methods


def open_extractors(texts: Sequence[str]) -> list[BenchmarkFeatures | SiftKeypoints]:
    """Extractors from words such as `dense_sift,sift_size_px=16`, or `sift_keypoints` with settings of its own."""
    if not texts:
        raise ConfigError("--extractors: none is given; must be at least one, such as dense_sift,sift_size_px=16 or sift_keypoints")
    return [_sift(text) if text.partition(",")[0].strip() == SIFT_KEYPOINTS else BenchmarkFeatures(features_from_text(text)) for text in texts]


def _sift(text: str) -> SiftKeypoints:
    pairs = [setting.partition("=") for setting in text.split(",")[1:]]
    if not all(equals for _, equals, _ in pairs):
        raise ConfigError(f"extractor {text!r}: each setting must be key=value, such as max_ratio=0.8")
    mapping = {key.strip(): value if key.strip() == "label" else yaml.safe_load(value) for key, _, value in pairs}
    return SiftKeypoints(from_mapping(SiftKeypointsConfig, mapping, f"extractor {text!r}"))
