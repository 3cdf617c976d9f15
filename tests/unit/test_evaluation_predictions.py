"""Files of predictions and truth: nothing is lost, nothing half-written, nothing stale."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.core.errors import InputError
from perception.core.types import NoPose, PoseEstimate, PoseResult
from perception.evaluation.predictions import (
    PosePrediction,
    PoseTruth,
    predictions_from_status,
    predictions_of,
    read_predictions,
    read_status_messages,
    read_truth,
    read_truth_topics,
    write_atomically,
    write_predictions,
    write_truth,
)
from perception.evaluation.provenance import Header, current_commit, source_identity
from perception.io.bags import BagWriter

HEADER = Header.here({"features": {"extractor": "sift"}, "min_score": 0.2, "databases": ("a.npz",)}, "scene.bag")
POSE = np.array([[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.7000000000000001], [0, 0, 0, 1.0]])
RECORDS = [
    PosePrediction(1_700_000_000_123_456_789, "mug", POSE, 0.9, 40, 80, 1.25, 0.05, 0.07),
    PosePrediction(1_700_000_000_223_456_789, "mug", None, reason='too few "matches"\nof <b>'),
    PosePrediction(3, "", step_s=0.01),
]


def test_predictions_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "predictions.jsonl"
    write_predictions(path, HEADER, RECORDS)
    header, records = read_predictions(path, expected=HEADER)
    assert header == HEADER
    for read, written in zip(records, RECORDS, strict=True):
        for name, value in vars(written).items():
            np.testing.assert_equal(getattr(read, name), value)


def test_truth_comes_back_exactly_with_symmetries(tmp_path: Path) -> None:
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    write_truth(tmp_path / "truth.jsonl", HEADER, [PoseTruth(5, "mug", POSE, (half_turn,)), PoseTruth(6, "mug", POSE)])
    _, (first, second) = read_truth(tmp_path / "truth.jsonl")
    np.testing.assert_equal(first.symmetries[0], half_turn)
    np.testing.assert_equal(first.camera_from_object, POSE)
    assert second.symmetries == ()


def test_file_is_plain_json_without_nan(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", HEADER, RECORDS)
    for line in (tmp_path / "p.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_no_predictions_is_a_valid_file(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", HEADER, [])
    assert read_predictions(tmp_path / "p.jsonl")[1] == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(HEADER, config={**HEADER.config, "min_score": 0.3}), "min_score is 0.2, expected 0.3"),
        (replace(HEADER, config={**HEADER.config, "features": {"extractor": "alike"}}), "features.extractor is 'sift', expected 'alike'"),
        (replace(HEADER, config={**HEADER.config, "symmetric": True}), "symmetric is absent, expected True"),
        (replace(HEADER, source="other.bag"), "source is 'scene.bag', expected 'other.bag'"),
    ],
)
def test_stale_predictions_are_refused_and_say_what_differs(tmp_path: Path, changed: Header, said: str) -> None:
    write_predictions(tmp_path / "p.jsonl", HEADER, RECORDS)
    with pytest.raises(InputError, match="stale") as caught:
        read_predictions(tmp_path / "p.jsonl", expected=changed)
    assert said in str(caught.value)


def test_commit_and_machine_do_not_make_predictions_stale(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.jsonl", HEADER, RECORDS)
    read_predictions(tmp_path / "p.jsonl", expected=replace(HEADER, commit="abc", machine={}, versions={}, created=""))


def test_edited_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_predictions(path, HEADER, RECORDS)
    path.write_text(path.read_text().replace('"min_score": 0.2', '"min_score": 0.3'))
    with pytest.raises(InputError, match="changed after it was written"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "must be 'perception-pose-predictions'"),
        ("{}\n", "format None"),
        ("not json\n", "line 1: not valid JSON"),
        ("[1]\n", "must be a JSON object"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(InputError, match=said):
        read_predictions(tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        '{"time_ns": 1',
        '{"time_ns": 1}',
        '{"time_ns": 1, "object_name": "a", "camera_from_object": [1, 2]}',
        '{"time_ns": 1, "object_name": "a", "colour": 2}',
    ],
)
def test_bad_record_is_named_by_its_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "p.jsonl"
    write_predictions(path, HEADER, RECORDS)
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(InputError, match="line 5"):
        read_predictions(path)


def test_missing_and_wrong_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_predictions(tmp_path / "none.jsonl")
    write_truth(tmp_path / "t.jsonl", HEADER, [])
    with pytest.raises(InputError, match="perception-pose-truth"):
        read_predictions(tmp_path / "t.jsonl")


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_predictions(path, HEADER, RECORDS)
    before = path.read_bytes()

    def breaks() -> object:
        yield RECORDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, HEADER, breaks())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        write_atomically(path, object())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["p.jsonl"]


def test_status_message_of_the_node() -> None:
    status = {
        "stamp_ns": 12,
        "step_s": 0.04,
        "latency_s": 0.05,
        "estimates": [
            {
                "object": "mug",
                "score": 0.8,
                "num_matches": 30,
                "num_inliers": 20,
                "reprojection_rms_px": 1.5,
                "camera_from_object": POSE.ravel().tolist(),
            }
        ],
        "misses": [{"object": "box", "reason": "too few matches", "num_matches": 3, "extra": 1}],
    }
    mug, box = predictions_from_status(json.dumps(status))
    np.testing.assert_equal(mug.camera_from_object, POSE)
    assert (mug.time_ns, mug.object_name, mug.num_inliers, mug.latency_s) == (12, "mug", 20, 0.05)
    assert (box.object_name, box.camera_from_object, box.reason, box.step_s) == ("box", None, "too few matches", 0.04)
    (nothing,) = predictions_from_status('{"stamp_ns": 12, "estimates": [], "misses": []}')
    assert nothing.object_name == ""
    assert math.isnan(nothing.step_s)


@pytest.mark.parametrize(
    "text", ["", "3", "{}", '{"stamp_ns": 1, "estimates": [{}]}', '{"stamp_ns": 1, "estimates": [{"object": "a", "camera_from_object": [1]}]}']
)
def test_bad_status_message_names_its_place(text: str) -> None:
    with pytest.raises(InputError, match="message 7"):
        predictions_from_status(text, "message 7")


def test_records_of_a_pipeline_step() -> None:
    empty = np.zeros((0, 3), np.float32)
    estimate = PoseEstimate("mug", POSE, np.eye(6), 0.7, 30, 20, 1.0, empty[:, :2], empty, np.zeros((2, 3), np.float32))
    records = predictions_of(PoseResult(9, "camera", (estimate,), (NoPose("box", "no match", 2),)), step_s=0.1)
    assert [(r.object_name, r.camera_from_object is None, r.time_ns, r.step_s) for r in records] == [("mug", False, 9, 0.1), ("box", True, 9, 0.1)]
    assert predictions_of(PoseResult(9, "camera", ()))[0].object_name == ""


def test_source_identity_follows_content_not_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "scene").mkdir(parents=True)
        (tmp_path / folder / "scene" / "data.mcap").write_bytes(b"one")
    first, second = (source_identity(tmp_path / folder / "scene") for folder in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "scene" / "data.mcap").write_bytes(b"two")
    assert source_identity(tmp_path / "b" / "scene") != first
    with pytest.raises(InputError, match="must be a file"):
        source_identity(tmp_path / "none")


def test_commit_is_that_of_the_checkout() -> None:
    assert current_commit().removesuffix("-dirty")


def test_recorded_status_and_truth_topics_of_a_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "recorded") as bag:
        bag.write_string("/object_pose/status", 50, '{"stamp_ns": 12, "estimates": [], "misses": [{"object": "mug", "reason": "far"}]}')
        bag.write_string("/other/status", 51, "not for us")
        bag.write_pose("/ground_truth/mug/pose", 12, POSE, "camera")
    (record,) = read_status_messages(tmp_path / "recorded")
    assert (record.time_ns, record.object_name, record.reason) == (12, "mug", "far")
    (truth,) = read_truth_topics(tmp_path / "recorded")
    assert (truth.time_ns, truth.object_name) == (12, "mug")
    np.testing.assert_allclose(truth.camera_from_object, POSE, atol=1e-12)
    with pytest.raises(InputError, match="/other/status, message 1"):
        read_status_messages(tmp_path / "recorded", "/other/status")
    with pytest.raises(InputError, match="/object_pose/status"):
        read_status_messages(tmp_path / "recorded", "/missing")
