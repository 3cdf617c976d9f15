"""Scores from files: misses, drops, frames without truth, symmetric objects, stale and foreign files."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.evaluation.predictions import PosePrediction, PoseTruth, write_predictions, write_truth
from perception.evaluation.provenance import Header
from perception.evaluation.score import Score, score_files, score_poses, score_table, write_score

HEADER = Header.here({"min_score": 0.2}, "scene.bag")


def pose(x_cm: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = (0.01 * x_cm, 0.0, 1.0)
    return matrix


def prediction(time_ns: int, error_cm: float | None, name: str = "mug", **values: float) -> PosePrediction:
    return PosePrediction(time_ns, name, None if error_cm is None else pose(error_cm), reason="" if error_cm is not None else "lost", **values)


def truth(times_ns: list[int], name: str = "mug") -> list[PoseTruth]:
    return [PoseTruth(time_ns, name, pose()) for time_ns in times_ns]


def test_medians_recalls_and_answered_share_count_misses_as_wrong() -> None:
    score = score_poses([prediction(k, error) for k, error in enumerate([0.5, 2.0, 4.0, 10.0, None])], truth([0, 1, 2, 3, 4]))
    (mug,) = score.objects
    assert (mug.num_frames, mug.num_answered, mug.num_not_processed) == (5, 4, 0)
    assert_close(np.array([mug.answered_share, mug.recall_1cm_1deg, mug.recall_3cm_3deg, mug.recall_5cm_5deg]), np.array([0.8, 0.2, 0.4, 0.6]))
    assert_close(np.array([mug.median_translation_cm, mug.answered_median_translation_cm]), np.array([4.0, 3.0]))
    assert replace(score.overall, object_name="mug") == mug


def test_no_predictions_and_no_truth() -> None:
    score = score_poses([], [])
    assert score.objects == ()
    assert score.overall.num_frames == 0
    assert math.isnan(score.overall.recall_5cm_5deg)
    assert math.isnan(score.stream.fps)
    assert json.loads(json.dumps(score.to_mapping(), allow_nan=False))["overall"]["median_rotation_deg"] is None


def test_all_missed_is_zero_recall_and_infinite_median() -> None:
    score = score_poses([prediction(k, None) for k in range(3)], truth([0, 1, 2]))
    assert (score.overall.recall_5cm_5deg, score.overall.answered_share, score.overall.median_translation_cm) == (0.0, 0.0, math.inf)
    assert math.isnan(score.overall.answered_median_translation_cm)


def test_one_frame() -> None:
    score = score_poses([prediction(7, 0.5, step_s=0.1, latency_s=0.2)], truth([7]))
    assert (score.overall.recall_1cm_1deg, score.overall.num_frames, score.stream.latency_p95_s) == (1.0, 1, 0.2)
    assert_close(score.stream.fps, 10.0)
    assert math.isnan(score.stream.rate_hz)


def test_dropped_frames_and_predictions_without_truth_are_counted_apart() -> None:
    score = score_poses([prediction(1, 0.0), prediction(2, 0.0), prediction(9, 0.0)], truth([1, 2, 3, 4]))
    (mug,) = score.objects
    assert (mug.num_frames, mug.num_not_processed, mug.num_without_truth, mug.recall_5cm_5deg) == (2, 2, 1, 1.0)


def test_frame_processed_without_a_word_on_the_object_is_missed_not_dropped() -> None:
    score = score_poses([PosePrediction(1, "", step_s=0.1), prediction(2, 0.0, "box")], [*truth([1, 2]), *truth([2], "box")])
    box, mug = score.objects
    assert (mug.num_frames, mug.num_not_processed, mug.num_answered, mug.recall_5cm_5deg) == (2, 0, 0, 0.0)
    assert (box.num_frames, box.recall_5cm_5deg) == (1, 1.0)


def test_overall_recall_is_the_mean_over_objects() -> None:
    """Nine good frames of one object and one bad of another: 0.5, not 0.9."""
    predictions = [prediction(k, 0.0) for k in range(9)] + [prediction(0, 99.0, "box")]
    score = score_poses(predictions, [*truth(list(range(9))), *truth([0], "box"), *truth([77], "never seen")])
    assert_close(score.overall.recall_5cm_5deg, 0.5)
    assert score.overall.num_frames == 10
    assert score.overall.num_not_processed == 1


def test_first_of_repeated_predictions_counts() -> None:
    score = score_poses([prediction(1, 0.0), prediction(1, 50.0)], truth([1]))
    assert (score.overall.recall_5cm_5deg, score.overall.num_repeated) == (1.0, 1)


def test_symmetric_object() -> None:
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned = PosePrediction(1, "mug", pose() @ half_turn)
    assert score_poses([turned], [PoseTruth(1, "mug", pose())]).overall.recall_5cm_5deg == 0.0
    assert score_poses([turned], [PoseTruth(1, "mug", pose(), (half_turn,))]).overall.recall_5cm_5deg == 1.0


def test_speed_counts_each_frame_once() -> None:
    names = ("mug", "box")
    predictions = [prediction(k * 500_000_000, 0.0, name, step_s=0.1 * (1 + k), latency_s=0.3) for k in range(3) for name in names]
    stream = score_poses(predictions, []).stream
    assert stream.num_processed == 3
    assert_close(np.array([stream.step_p50_s, stream.fps, stream.rate_hz, stream.latency_p50_s]), np.array([0.2, 5.0, 2.0, 0.3]))
    assert score_poses(predictions, []).overall.num_without_truth == 6


def files(folder: Path, header: Header = HEADER, truth_header: Header = HEADER) -> tuple[Path, Path]:
    write_predictions(folder / "p.jsonl", header, [prediction(1, 2.0), prediction(2, None)])
    write_truth(folder / "t.jsonl", truth_header, truth([1, 2]))
    return folder / "p.jsonl", folder / "t.jsonl"


def test_files_score_as_the_records_do(tmp_path: Path) -> None:
    score = score_files(*files(tmp_path), expected=HEADER)
    assert score.overall == score_poses([prediction(1, 2.0), prediction(2, None)], truth([1, 2])).overall
    assert score.predictions_header == HEADER


def test_truth_of_another_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other\.bag"):
        score_files(*files(tmp_path, truth_header=replace(HEADER, source="other.bag")))


def test_stale_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"min_score is 0\.2, expected 0\.5"):
        score_files(*files(tmp_path), expected=replace(HEADER, config={"min_score": 0.5}))


def test_written_files_hold_the_figures(tmp_path: Path) -> None:
    score: Score = score_files(*files(tmp_path))
    write_score(score, tmp_path)
    read = json.loads((tmp_path / "score.json").read_text())
    assert read["overall"]["recall_3cm_3deg"] == 0.5
    assert read["objects"]["mug"]["median_translation_cm"] is None
    assert read["predictions"]["fingerprint"] == HEADER.fingerprint
    rows = list(csv.DictReader((tmp_path / "score.csv").open()))
    assert [(row["object_name"], row["num_answered"]) for row in rows] == [("mug", "1"), ("all objects", "1")]
    errors = list(csv.DictReader((tmp_path / "errors.csv").open()))
    assert [float(row["translation_cm"]) for row in errors] == pytest.approx([2.0, math.inf])
    assert errors[1]["reason"] == "lost"


@pytest.mark.parametrize("names", [(), ("mug",), ("mug", "box")])
def test_table_shows_the_figures(names: tuple[str, ...]) -> None:
    predictions = [prediction(k, 2.0 if k else None, name) for name in names for k in range(4)]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(score_table(score_poses(predictions, [record for name in names for record in truth([0, 1, 2, 3], name)])))
    text = console.export_text()
    assert text.count("75.0 %") == (0, 3, 9)[len(names)]
    assert ("all objects" in text) == (len(names) != 1)
