"""What the three kinds of demo share: a bag through the nodes, what they said into files, scores and a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from perception.cli.demo import Arguments
from perception.cli.progress import Steps
from perception.core.config import to_mapping
from perception.evaluation.pictures import save_pictures
from perception.evaluation.predictions import read_status_messages, read_truth_topics, write_predictions, write_truth
from perception.evaluation.provenance import Header, source_identity
from perception.evaluation.report import write_report
from perception.evaluation.run_folder import PREDICTIONS_FILE, TRUTH_FILE, RunDescription
from perception.evaluation.score import Score, score_files, score_table
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
    compressed: bool = False
    """Whether the images are CompressedImage."""

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(topic for topic in (self.image_topic, self.camera_info_topic, *self.truth_topics) if topic)


@dataclass(frozen=True)
class OnboardRequest:
    """An object that the running node is to learn through its `~/onboard` service; `parameters` are further node parameters."""

    name: str
    source: str
    parameters: dict[str, Any]


def features_config(arguments: Arguments) -> DenseFeaturesConfig:
    """The default features, or those that were asked for."""
    default = OneShotPoseConfig().features
    return replace(
        default,
        extractor=arguments.extractor or default.extractor,
        weights=arguments.weights or default.weights,
        sift_size_px=arguments.sift_size_px or default.sift_size_px,
    )


def without_empty_lists(mapping: dict[str, Any]) -> dict[str, Any]:
    """A nested mapping without empty lists: a ROS parameter file cannot say of what type they are."""
    plain = {key: without_empty_lists(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    return {key: value for key, value in plain.items() if value != []}


def truth_topic(object_name: str) -> str:
    """Where the demo's bags hold the true pose of an object."""
    return f"/ground_truth/{object_name}/pose"


def run_nodes(
    steps: Steps,
    stream: Stream,
    out: Path,
    config: OneShotPoseConfig,
    *,
    onboard: Sequence[OnboardRequest] = (),
    with_poses: bool = True,
    domain_id: int | None = None,
) -> RecordedRun:
    """Start the nodes with the settings of `config`, let them learn what is asked for, play the bag in lock-step, record into `out/recording`."""
    image = {"reliability": "reliable", "compressed": stream.compressed}
    features = {"features": to_mapping(config.features), "image": image, "publish_stride_cells": _PUBLISH_STRIDE_CELLS}
    specs = [NodeSpec("features", features)]
    if with_poses:
        specs.append(NodeSpec("object_pose", {**without_empty_lists(to_mapping(config)), "image": image}))
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


def write_results(
    steps: Steps, stream: Stream, recorded: RecordedRun, out: Path, config: OneShotPoseConfig, description: RunDescription, objects: Sequence[str]
) -> Score:
    """Predictions, truth of the `objects` that were looked for, pictures and report into `out`; prints the table and the report's path."""
    with steps.step("score and write the report") as step:
        header = Header.here(to_mapping(config), source_identity(stream.bag))
        status_topic = "/object_pose/status" if objects else "/features/status"
        predictions, truth = out / PREDICTIONS_FILE, out / TRUTH_FILE
        write_predictions(predictions, header, read_status_messages(recorded.bag, status_topic))
        write_truth(truth, header, [record for record in read_truth_topics(stream.bag) if record.object_name in objects])
        description.write(out)
        save_pictures(out, score_files(predictions, truth, header, description.position), recorded.bag)
        report, score = write_report(out, header)
        step.result = f"recording in {recorded.bag}"
    steps.console.print(score_table(score))
    steps.console.print(f"report: {report.resolve()}", soft_wrap=True, highlight=False)
    return score


def played_command(arguments: Arguments) -> str:
    """The command line that gives this run again."""
    defaults = Arguments()
    given = {field.name: getattr(arguments, field.name) for field in fields(arguments)}
    options = []
    for name, value in given.items():
        if value != getattr(defaults, name):
            values = value if isinstance(value, tuple) else (value,)
            options.append(f"--{name.replace('_', '-')} {' '.join(shlex.quote(str(item)) for item in values)}")
    return " ".join(["perception demo", *options])
