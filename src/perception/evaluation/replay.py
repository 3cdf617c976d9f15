"""A bag through the pipelines without ROS: predictions, an output bag that Foxglove and RViz open, and pictures for the report.

Everything is written beside its place and moved there at the end: an interrupted replay leaves an older run as it was.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import InputError
from perception.core.timing import Stopwatch
from perception.core.types import Frame, PoseEstimate, PoseResult
from perception.evaluation.pictures import save_pictures
from perception.evaluation.predictions import PosePrediction, PoseTruth, predictions_of, read_truth_topics, status_of, write_predictions, write_truth
from perception.evaluation.provenance import Header, source_identity
from perception.evaluation.run_folder import OUTPUT_BAG, PREDICTIONS_FILE, TRUTH_FILE, RunDescription
from perception.evaluation.score import score_files
from perception.io import bag_messages
from perception.io.bags import BagReader, BagWriter
from perception.pipelines.dense_features import DenseFeatures
from perception.viz.colors import object_color
from perception.viz.overlays import draw_box, draw_message, draw_pose
from perception.viz.pca import FeaturePca

Step = Callable[[Frame], PoseResult]
_PARTIAL_PREFIX = ".replay-"


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Checked):
    """Which frames of a bag are replayed, and what is recorded."""

    image_topic: str = ""
    """Topic of the images; empty: the bag's only one."""
    camera_info_topic: str = ""
    """Topic of the calibration; empty: the one beside the images."""
    every: Annotated[int, Range(1, None, "frames")] = 1
    """Take every n-th frame."""
    max_frames: Annotated[int, Range(0, None, "frames")] = 0
    """Stop after so many frames; 0: never."""
    record: bool = True
    """Write the output bag and the pictures."""


@dataclass(frozen=True)
class ReplaySummary:
    """folder with predictions.jsonl and the rest · num_frames through the pipeline · num_refused: frames that it could not take."""

    folder: Path
    num_frames: int
    num_refused: int


def features_only(features: DenseFeatures) -> Step:
    """A step that computes features and says nothing of objects."""
    return lambda frame: PoseResult(frame.time_ns, frame.frame_id, (), (), features.step(frame))


def pipeline_header(config: Checked, replay: ReplayConfig, bag: str | Path, databases: tuple[str, ...] = ()) -> Header:
    """The header of a replay's predictions: settings, the content of the databases and of the bag. What differs there makes predictions stale."""
    mapping: dict[str, Any] = {
        "pipeline": to_mapping(config),
        "replay": to_mapping(replay),
        "databases": {Path(path).name: source_identity(path) for path in databases},
    }
    return Header.here(mapping, source_identity(bag))


def replay_bag(
    bag: str | Path,
    step: Step,
    config: ReplayConfig,
    folder: str | Path,
    header: Header,
    description: RunDescription | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReplaySummary:
    """Run `step` on the frames of a bag and fill `folder`: predictions.jsonl, truth.jsonl, run.json, output/ (MCAP), pictures/.

    step: `OneShotPose.step` or `features_only(...)` · progress(done, total). A frame that the pipeline refuses is a prediction without pose and
    its reason; refusing the first one ends the replay with its InputError. Truth comes from the bag's `/ground_truth/<object>/pose`.
    """
    folder = Path(folder)
    truth = read_truth_topics(bag)
    with _moved_at_the_end(folder) as partial:
        recorder = _Recorder(partial / OUTPUT_BAG, truth) if config.record else None
        try:
            records, num_refused = _run(bag, step, config, recorder, progress)
        finally:
            if recorder is not None:
                recorder.close()
        write_predictions(partial / PREDICTIONS_FILE, header, records)
        write_truth(partial / TRUTH_FILE, header, truth)
        description = description or RunDescription(title=f"Replay of {Path(bag).name}")
        description.write(partial)
        if recorder is not None:
            score = score_files(partial / PREDICTIONS_FILE, partial / TRUTH_FILE, header, description.position)
            save_pictures(partial, score, partial / OUTPUT_BAG)
    return ReplaySummary(folder, len({record.time_ns for record in records}), num_refused)


@contextmanager
def _moved_at_the_end(folder: Path) -> Iterator[Path]:
    """A new folder beside the files' place; what is in it replaces what is there, predictions last, when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL_PREFIX) as name:
        partial = Path(name)
        yield partial
        # Without predictions there is no run: no reader ever sees old predictions beside new pictures.
        (folder / PREDICTIONS_FILE).unlink(missing_ok=True)
        for item in sorted(partial.iterdir(), key=lambda path: path.name == PREDICTIONS_FILE):
            target = folder / item.name
            if target.is_dir():
                shutil.rmtree(target)
            item.replace(target)


def _run(
    bag: str | Path, step: Step, config: ReplayConfig, recorder: _Recorder | None, progress: Callable[[int, int], None] | None
) -> tuple[list[PosePrediction], int]:
    records: list[PosePrediction] = []
    num_done = num_refused = 0
    with BagReader(bag) as reader:
        image_topic, camera_info_topic = _topics(reader, config)
        total = -(-reader.topics[image_topic].num_messages // config.every)
        total = min(total, config.max_frames) if config.max_frames else total
        for index, frame in enumerate(reader.frames(image_topic, camera_info_topic)):
            if index % config.every:
                continue
            watch = Stopwatch()
            try:
                result = step(frame)
            except InputError as error:
                if not num_done:
                    raise
                num_refused += 1
                records.append(PosePrediction(frame.time_ns, "", reason=str(error)))
            else:
                said = predictions_of(result, step_s=watch.lap())
                records += said
                if recorder is not None:
                    recorder.write(frame, result, said)
            num_done += 1
            if progress is not None:
                progress(num_done, total)
            if num_done == config.max_frames:
                break
    return records, num_refused


def _topics(reader: BagReader, config: ReplayConfig) -> tuple[str, str | None]:
    """Image and calibration topic; several image topics without a choice are an error that lists them."""
    image_topic = config.image_topic
    if not image_topic:
        known = reader.find_topics(bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)
        if len(known) != 1:
            raise InputError(f"bag {reader.path}: image topics {', '.join(known) or 'none'}; set image_topic to one of them")
        image_topic = known[0]
    reader.require(image_topic, bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)
    return image_topic, config.camera_info_topic or reader.camera_info_topic_of(image_topic)


class _Recorder:
    """The output bag, with the topics of the nodes: what reads a recording of the nodes reads a replay."""

    def __init__(self, path: Path, truth: list[PoseTruth]) -> None:
        self._bag = BagWriter(path)
        self._truth: dict[int, dict[str, NDArray[np.float64]]] = {}
        for item in truth:
            self._truth.setdefault(item.time_ns, {})[item.object_name] = item.camera_from_object
        self._pca = FeaturePca()
        self._color_index: dict[str, int] = {}

    def close(self) -> None:
        self._bag.close()

    def write(self, frame: Frame, result: PoseResult, records: list[PosePrediction]) -> None:
        """Poses, status, truth, calibration, overlay and feature colours of one frame, all with its stamp."""
        time_ns, frame_id = frame.time_ns, frame.frame_id
        for estimate in result.estimates:
            self._bag.write_pose(f"/object_pose/objects/{estimate.object_name}/pose", time_ns, estimate.camera_from_object, frame_id)
        for name, pose in self._truth.get(time_ns, {}).items():
            self._bag.write_pose(f"/ground_truth/{name}/pose", time_ns, pose, frame_id)
        if frame.camera is not None:
            self._bag.write_camera_info("/object_pose/overlay/camera_info", time_ns, frame.camera, frame_id)
        self._bag.write_string("/object_pose/status", time_ns, status_of(records))
        self._bag.write_compressed_image("/object_pose/overlay/compressed", time_ns, self._overlay(frame, result), frame_id=frame_id)
        if result.features is not None:
            colors = self._pca.colorize(result.features)
            self._bag.write_compressed_image("/features/visualization/compressed", time_ns, colors, frame_id=frame_id)

    def _overlay(self, frame: Frame, result: PoseResult) -> NDArray[np.uint8]:
        image = frame.image
        for estimate in result.estimates:
            image = self._drawn(image, frame, estimate)
        if not result.estimates and result.misses:
            image = draw_message(image, "no pose · " + " · ".join(f"{miss.object_name}: {miss.reason}" for miss in result.misses))
        return image

    def _drawn(self, image: NDArray[np.uint8], frame: Frame, estimate: PoseEstimate) -> NDArray[np.uint8]:
        """The estimate in the object's colour over the true box in white."""
        if frame.camera is None:
            return image
        true_pose = self._truth.get(frame.time_ns, {}).get(estimate.object_name)
        if true_pose is not None:
            image = draw_box(image, true_pose, estimate.bounds_object, frame.camera)
        color = object_color(self._color_index.setdefault(estimate.object_name, len(self._color_index)))
        return draw_pose(image, estimate, frame.camera, color)
