"""Object poses in records of benchmarks, and their scores by `perception.evaluation.score`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from perception.core.types import PoseResult
from perception.evaluation.metrics.pose import Position
from perception.evaluation.predictions import PosePrediction, PoseTruth, predictions_of
from perception.evaluation.score import Score, score_poses
from perception.viz.plots import ErrorSeries, cumulative_errors
from perception_training.benchmarks.records import Record
from perception_training.benchmarks.running import BenchmarkScore

_NUMBERS = ("score", "reprojection_rms_px", "step_s")


def pose_row(result: PoseResult, true_pose: np.ndarray, step_s: float = math.nan) -> dict[str, Any]:
    """What one frame with one known object said, beside the true pose (4, 4): plain values for a record."""
    (prediction,) = predictions_of(result, step_s)
    row = {name: getattr(prediction, name) for name in ("time_ns", "camera_from_object", "num_inliers", "num_matches", "reason", *_NUMBERS)}
    return {**row, "truth": true_pose}


def scored(records: Mapping[str, Record], names: Mapping[str, str] | None = None, position: Position = "object") -> Score:
    """Score of records that hold `frames`, a list of `pose_row`s, each record under its own name (by default its unit's)."""
    predictions: list[PosePrediction] = []
    truth: list[PoseTruth] = []
    for unit, record in records.items():
        name = (names or {}).get(unit, unit)
        for row in record["frames"]:
            pose = row["camera_from_object"]
            numbers = {key: math.nan if row[key] is None else float(row[key]) for key in _NUMBERS}
            predictions.append(
                PosePrediction(
                    time_ns=row["time_ns"],
                    object_name=name,
                    camera_from_object=None if pose is None else np.array(pose, np.float64),
                    num_inliers=row["num_inliers"],
                    num_matches=row["num_matches"],
                    reason=row["reason"],
                    **numbers,
                )
            )
            truth.append(PoseTruth(row["time_ns"], name, np.array(row["truth"], np.float64)))
    return score_poses(predictions, truth, position)


def pose_benchmark_score(score: Score, headline: str) -> BenchmarkScore:
    """Figures over all, a row for each object, and the plot of the share of frames below each error."""
    rows = [asdict(row) for row in (*score.objects, score.overall)]
    summary = {name: float(value) for name, value in asdict(score.overall).items() if isinstance(value, (int, float))}
    summary |= {"step_p50_s": score.stream.step_p50_s, "fps": score.stream.fps}
    return BenchmarkScore(summary, headline, rows, {"cumulative_errors.png": cumulative_errors(list(_series(score)))})


_MAX_SERIES = 6


def _series(score: Score) -> Iterable[ErrorSeries]:
    names = [item.object_name for item in score.objects]
    groups = {name: [name] for name in names} if len(names) <= _MAX_SERIES else {f"all {len(names)} objects": names}
    for label, members in groups.items():
        errors = [error for error in score.errors if error.truth.object_name in members]
        columns = [[getattr(error, name) for error in errors] for name in ("rotation_deg", "translation_cm")]
        yield ErrorSeries(label, np.arange(len(errors), dtype=np.float64), np.array(columns[0]), np.array(columns[1]))
