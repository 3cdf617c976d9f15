"""Scores from files only: predictions beside truth. Nothing here runs a pipeline."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from perception.core.errors import InputError
from perception.evaluation.metrics.pose import THRESHOLDS, Position, median_error, pose_error, pose_recall
from perception.evaluation.predictions import PosePrediction, PoseTruth, read_predictions, read_truth, write_atomically
from perception.evaluation.provenance import Header

OVERALL = "all objects"


@dataclass(frozen=True, eq=False)
class FrameError:
    """One object in one processed frame with truth. Errors are infinite where there is no estimate."""

    prediction: PosePrediction
    truth: PoseTruth
    rotation_deg: float
    translation_cm: float

    @property
    def answered(self) -> bool:
        return self.prediction.camera_from_object is not None


@dataclass(frozen=True)
class PoseScore:
    """Accuracy on one object, or on all.

    num_frames: processed frames with truth; all figures but the last three are over these · answered_share in [0, 1] ·
    median_*: a frame without estimate counts as infinitely wrong · answered_median_*: over answered frames alone ·
    recall_*: share of frames below both thresholds, in [0, 1] · num_not_processed: frames with truth of which nothing was said (dropped or skipped) ·
    num_without_truth: predictions where no truth is known · num_repeated: further predictions of a frame that had one; the first counts.
    NaN where there are no frames.
    """

    object_name: str
    num_frames: int
    num_answered: int
    answered_share: float
    median_rotation_deg: float
    median_translation_cm: float
    answered_median_rotation_deg: float
    answered_median_translation_cm: float
    recall_1cm_1deg: float
    recall_3cm_3deg: float
    recall_5cm_5deg: float
    num_not_processed: int = 0
    num_without_truth: int = 0
    num_repeated: int = 0


@dataclass(frozen=True)
class StreamScore:
    """Speed, over the processed frames. NaN where nothing was measured.

    answered_share in [0, 1]: frames with at least one pose, with or without truth · latency: arrival of the image to publication ·
    step: time in the pipeline · fps: what the pipeline could do, 1 / mean step ·
    rate_hz: processed frames by their stamps, which is the camera's rate where none was dropped, also in slow lock-step replay.
    """

    num_processed: int
    answered_share: float
    latency_p50_s: float
    latency_p95_s: float
    step_p50_s: float
    step_p95_s: float
    fps: float
    rate_hz: float


@dataclass(frozen=True, eq=False)
class Score:
    """All figures of one run, and the records they are made from. `errors` are in the order of time."""

    objects: tuple[PoseScore, ...]
    overall: PoseScore
    stream: StreamScore
    errors: tuple[FrameError, ...]
    predictions: tuple[PosePrediction, ...] = ()
    position: Position = "object"
    predictions_header: Header | None = None
    truth_header: Header | None = None

    def to_mapping(self) -> dict[str, Any]:
        """The figures as plain values, infinite and NaN as None; ready for JSON."""
        scores = {score.object_name: _finite(asdict(score)) for score in self.objects}
        found = {"position": self.position, "overall": _finite(asdict(self.overall)), "objects": scores, "stream": _finite(asdict(self.stream))}
        if self.predictions_header is not None:
            found["predictions"] = {"fingerprint": self.predictions_header.fingerprint, **self.predictions_header.to_mapping()}
        return found


def score_files(predictions: str | Path, truth: str | Path | None, expected: Header | None = None, position: Position = "object") -> Score:
    """Score a file of predictions against a file of truth; without truth there is only `stream` to look at.

    Refused with InputError: predictions of another setup than `expected`, and truth of another source than the predictions'.
    """
    header, records = read_predictions(predictions, expected)
    if truth is None:
        return replace(score_poses(records, [], position), predictions_header=header)
    truth_header, true_poses = read_truth(truth)
    if truth_header.source != header.source:
        raise InputError(f"{predictions} was made from {header.source!r} but {truth} is the truth of {truth_header.source!r}: sources must be equal")
    return replace(score_poses(records, true_poses, position), predictions_header=header, truth_header=truth_header)


def score_poses(predictions: Sequence[PosePrediction], truth: Sequence[PoseTruth], position: Position = "object") -> Score:
    """Score records. A truth frame that was processed without a word on the object counts as missed; recall overall is the mean over objects."""
    first: dict[tuple[str, int], PosePrediction] = {}
    repeated: dict[str, int] = {}
    for record in predictions:
        if first.setdefault((record.object_name, record.time_ns), record) is not record:
            repeated[record.object_name] = repeated.get(record.object_name, 0) + 1
    frames = {record.time_ns: record for record in predictions}
    true_poses = {(record.object_name, record.time_ns): record for record in truth}
    names = sorted({name for name, _ in (*first, *true_poses) if name})
    errors: list[FrameError] = []
    scores: list[PoseScore] = []
    for name in names:
        times = [time_ns for known, time_ns in true_poses if known == name]
        found = [
            _frame_error(first.get((name, time_ns), _silent(frames[time_ns], name)), true_poses[name, time_ns], position)
            for time_ns in times
            if time_ns in frames
        ]
        without_truth = sum(known == name and (name, time_ns) not in true_poses for known, time_ns in first)
        scores.append(_pose_score(name, found, len(times) - len(found), without_truth, repeated.get(name, 0)))
        errors += found
    errors.sort(key=lambda error: (error.truth.time_ns, error.truth.object_name))
    return Score(tuple(scores), _overall(scores, errors), _stream_score(predictions), tuple(errors), tuple(predictions), position)


def _silent(frame: PosePrediction, name: str) -> PosePrediction:
    return PosePrediction(frame.time_ns, name, step_s=frame.step_s, latency_s=frame.latency_s, reason="nothing was said of this object")


def _frame_error(prediction: PosePrediction, truth: PoseTruth, position: Position) -> FrameError:
    return FrameError(prediction, truth, *pose_error(prediction.camera_from_object, truth.camera_from_object, truth.symmetries, position))


def _pose_score(name: str, errors: Sequence[FrameError], num_not_processed: int, num_without_truth: int, num_repeated: int) -> PoseScore:
    rotation_deg, translation_cm = _columns(errors)
    answered = np.array([error.answered for error in errors], bool)
    recall = pose_recall(rotation_deg, translation_cm, THRESHOLDS)
    return PoseScore(
        name,
        len(errors),
        int(answered.sum()),
        float(answered.mean()) if len(errors) else math.nan,
        median_error(rotation_deg),
        median_error(translation_cm),
        median_error(rotation_deg[answered]),
        median_error(translation_cm[answered]),
        float(recall[0]),
        float(recall[1]),
        float(recall[2]),
        num_not_processed,
        num_without_truth,
        num_repeated,
    )


def _overall(scores: Sequence[PoseScore], errors: Sequence[FrameError]) -> PoseScore:
    """Medians and shares over all frames; recall is the mean over objects that have frames, as OnePose++ aggregates."""
    pooled = _pose_score(
        OVERALL, errors, sum(s.num_not_processed for s in scores), sum(s.num_without_truth for s in scores), sum(s.num_repeated for s in scores)
    )
    counted = [score for score in scores if score.num_frames]
    if not counted:
        return pooled
    means = {name: float(np.mean([getattr(score, name) for score in counted])) for name in ("recall_1cm_1deg", "recall_3cm_3deg", "recall_5cm_5deg")}
    return replace(pooled, **means)  # type: ignore[arg-type]


def _columns(errors: Iterable[FrameError]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = np.array([(error.rotation_deg, error.translation_cm) for error in errors], np.float64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _stream_score(predictions: Sequence[PosePrediction]) -> StreamScore:
    frames = {record.time_ns: record for record in reversed(predictions)}
    latency_s = _measured(record.latency_s for record in frames.values())
    step_s = _measured(record.step_s for record in frames.values())
    span_s = (max(frames) - min(frames)) * 1e-9 if frames else 0.0
    return StreamScore(
        len(frames),
        len({record.time_ns for record in predictions if record.camera_from_object is not None}) / len(frames) if frames else math.nan,
        _quantile(latency_s, 0.5),
        _quantile(latency_s, 0.95),
        _quantile(step_s, 0.5),
        _quantile(step_s, 0.95),
        fps=float(1.0 / step_s.mean()) if len(step_s) and step_s.mean() > 0 else math.nan,
        rate_hz=(len(frames) - 1) / span_s if span_s > 0 else math.nan,
    )


def _quantile(values: NDArray[np.float64], quantile: float) -> float:
    return float(np.quantile(values, quantile)) if len(values) else math.nan


def _measured(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.array(list(values), np.float64)
    return array[np.isfinite(array)]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


def write_score(score: Score, folder: str | Path) -> None:
    """score.json (everything), score.csv (one row for each object, then all), errors.csv (one row for each frame and object)."""
    folder = Path(folder)
    write_atomically(folder / "score.json", json.dumps(score.to_mapping(), indent=2) + "\n")
    write_atomically(folder / "score.csv", rows_as_csv([asdict(row) for row in (*score.objects, score.overall)]))
    rows = [
        {
            "time_ns": error.truth.time_ns,
            "object_name": error.truth.object_name,
            "rotation_deg": error.rotation_deg,
            "translation_cm": error.translation_cm,
            "score": error.prediction.score,
            "num_inliers": error.prediction.num_inliers,
            "step_s": error.prediction.step_s,
            "latency_s": error.prediction.latency_s,
            "reason": error.prediction.reason,
        }
        for error in score.errors
    ]
    write_atomically(folder / "errors.csv", rows_as_csv(rows))


def rows_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV text of rows with equal keys; empty without rows."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()


def shown(value: float | None, digits: int = 2, unit: str = "") -> str:
    """A figure for people: `–` when there is none, `∞` when more than half was missed."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}{unit}"


def percent(share: float) -> str:
    """A share in [0, 1] as percent."""
    return shown(100.0 * share, 1, " %")


def score_table(score: Score) -> Table:
    """The figures as a table for the terminal."""
    whose = "camera position" if score.position == "camera" else "object position"
    table = Table(
        title=f"Pose error ({whose}; frames without a pose count as wrong)",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    # Short names, so that the table fits 80 columns.
    for name in ("object", "frames", "found", "median°", "cm", "1cm-1°", "3cm-3°", "5cm-5°", "lost"):
        table.add_column(name, justify="left" if name == "object" else "right")
    rows = score.objects if len(score.objects) == 1 else (*score.objects, score.overall)
    for row in rows:
        recalls = (percent(value) for value in (row.recall_1cm_1deg, row.recall_3cm_3deg, row.recall_5cm_5deg))
        medians = (shown(row.median_rotation_deg), shown(row.median_translation_cm))
        table.add_row(row.object_name, str(row.num_frames), percent(row.answered_share), *medians, *recalls, str(row.num_not_processed))
    stream = score.stream
    notes = [
        f"latency p50 {shown(1e3 * stream.latency_p50_s, 0, ' ms')}, p95 {shown(1e3 * stream.latency_p95_s, 0, ' ms')}",
        f"step p50 {shown(1e3 * stream.step_p50_s, 0, ' ms')}",
        f"the step alone allows {shown(stream.fps, 1, ' Hz')}",
    ]
    if score.overall.num_without_truth:
        notes.append(f"{score.overall.num_without_truth} predictions without truth")
    table.caption, table.caption_justify = " · ".join(notes), "left"
    return table
