"""What the three kinds of demo share: a bag through the nodes, what they said into files, scores and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.cli.progress import Steps
from perception.core.config import to_mapping
from perception.evaluation.metrics.pose import Position
from perception.evaluation.predictions import PoseTruth, read_status_messages, write_predictions, write_truth
from perception.evaluation.provenance import Header, source_identity
from perception.evaluation.score import Score, score_files, write_score
from perception.nodes.bag_run import NodeRun, NodeSpec, RecordedRun
from perception.pipelines.dense_features import DenseFeaturesConfig
from perception.pipelines.one_shot_pose import OneShotPoseConfig

IMAGE_TOPIC, CAMERA_INFO_TOPIC = "/camera/image_raw", "/camera/camera_info"
FEATURE_TOPICS = ("/features/status", "/features/metadata", "/features/features", "/features/visualization")
POSE_TOPICS = ("/object_pose/status", "/object_pose/pose", "/object_pose/poses", "/object_pose/overlay")
_PUBLISH_STRIDE_CELLS = 8
"""Coarse maps are recorded: whole ones would make the recording ten times as large."""


@dataclass(frozen=True)
class Stream:
    """What is played: a bag, its camera's topics, and the topics with the truth."""

    bag: Path
    image_topic: str = IMAGE_TOPIC
    camera_info_topic: str = CAMERA_INFO_TOPIC
    truth_topics: tuple[str, ...] = ()

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(topic for topic in (self.image_topic, self.camera_info_topic, *self.truth_topics) if topic)


@dataclass(frozen=True)
class OnboardRequest:
    """An object that the running node is to learn through its `~/onboard` service; `parameters` are further node parameters."""

    name: str
    source: str
    parameters: dict[str, Any]


def features_config(extractor: str) -> DenseFeaturesConfig:
    """The default features, or those of another extractor."""
    return DenseFeaturesConfig(extractor=extractor) if extractor else DenseFeaturesConfig()


def truth_topic(object_name: str) -> str:
    """Where the demo's bags hold the true pose of an object."""
    return f"/ground_truth/{object_name}/pose"


def run_nodes(
    steps: Steps,
    stream: Stream,
    out: Path,
    features: DenseFeaturesConfig,
    *,
    databases: Sequence[Path] = (),
    onboard: Sequence[OnboardRequest] = (),
    with_poses: bool = True,
    domain_id: int | None = None,
) -> RecordedRun:
    """Start the nodes, let them learn what is asked for, play the bag in lock-step, record into `out/recording`."""
    shared = {"features": to_mapping(features), "image": {"reliability": "reliable"}}
    specs = [NodeSpec("features", {**shared, "publish_stride_cells": _PUBLISH_STRIDE_CELLS})]
    if with_poses:
        specs.append(NodeSpec("object_pose", {**shared, **({"databases": [str(path.resolve()) for path in databases]} if databases else {})}))
    with NodeRun(out / "nodes", specs, stream.image_topic, stream.camera_info_topic, domain_id) as run:
        with steps.step("start and configure the nodes") as step:
            run.configure()
            step.result = f"{' and '.join(spec.name for spec in specs)}, ROS domain {run.domain_id}"
        for request in onboard:
            with steps.step(f"onboard {request.name!r} through /object_pose/onboard") as step:
                step.result = run.onboard(request.name, request.source, request.parameters)
        run.activate()
        recorded_topics = (*stream.topics, *FEATURE_TOPICS, *(POSE_TOPICS if with_poses else ()))
        with steps.step("play the bag through the nodes and record") as step:
            recorded = run.play(stream.bag, out / "recording", played_topics=stream.topics, recorded_topics=recorded_topics, progress=step.progress)
            lost = f", {recorded.played.num_unanswered} not answered" if recorded.played.num_unanswered else ""
            step.result = f"{recorded.played.num_images} images{lost}, {sum(recorded.num_recorded.values())} messages recorded"
    return recorded


def pose_config(features: DenseFeaturesConfig, databases: Iterable[Path]) -> OneShotPoseConfig:
    """The settings of the `object_pose` node in a demo: the defaults, with these features and databases."""
    return OneShotPoseConfig(features=features, databases=tuple(str(path) for path in databases))


def score_run(
    steps: Steps, stream: Stream, recorded: RecordedRun, out: Path, config: OneShotPoseConfig, truth: Sequence[PoseTruth], position: Position
) -> Score:
    """Predictions and truth into files of `out`, scores from these files."""
    with steps.step("score"):
        header = Header.here(to_mapping(config), source_identity(stream.bag))
        write_predictions(out / "predictions.jsonl", header, read_status_messages(recorded.bag))
        write_truth(out / "truth.jsonl", header, truth)
        score = score_files(out / "predictions.jsonl", out / "truth.jsonl", header, position)
        write_score(score, out)
    return score
