"""Track scores: a plain twin that counts point by point, invariants, cases worked out by hand, empty and broken input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.evaluation.metrics.tracking import THRESHOLDS_PX, QueryMode, query_places, track_scores

MODES: tuple[QueryMode, ...] = ("first", "strided")
SEEDS = st.integers(0, 2**32 - 1)


def clip(seed: int, batch: tuple[int, ...] = (), num_tracks: int = 6, num_frames: int = 9) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 256, (*batch, num_tracks, num_frames, 2))
    return {
        "points_px": true + rng.normal(size=true.shape) * rng.choice([0.5, 3.0, 12.0], (*true.shape[:-1], 1)),
        "occluded": rng.random(true.shape[:-1]) < 0.3,
        "true_points_px": true,
        "true_occluded": rng.random(true.shape[:-1]) < 0.3,
        "query_frames": rng.integers(0, num_frames, (*batch, num_tracks)),
    }


def plain_scores(data: dict[str, Any], mode: QueryMode, tracks: list[int]) -> tuple[float, list[float], list[float]]:
    """Of these tracks of one video together; NaN for 0 / 0."""
    right_occlusion, num, near, seen, jaccard_right, wrong = 0, 0, np.zeros(5), 0, np.zeros(5), np.zeros(5)
    for track in tracks:
        for frame in range(data["occluded"].shape[1]):
            query = data["query_frames"][track]
            if frame == query or (mode == "first" and frame < query):
                continue
            says, truly = not data["occluded"][track, frame], not data["true_occluded"][track, frame]
            num += 1
            right_occlusion += says == truly
            seen += truly
            for index, threshold in enumerate(THRESHOLDS_PX):
                close = np.linalg.norm(data["points_px"][track, frame] - data["true_points_px"][track, frame]) < threshold
                near[index] += truly and close
                jaccard_right[index] += says and truly and close
                wrong[index] += says and not (truly and close)
    with np.errstate(invalid="ignore"):
        return np.divide(right_occlusion, num), (near / seen).tolist(), (jaccard_right / (seen + wrong)).tolist()


@given(SEEDS, st.sampled_from(MODES))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_scores_equal_a_plain_count(seed: int, mode: QueryMode) -> None:
    data = clip(seed)
    together, single = track_scores(**data, query_mode=mode), track_scores(**data, query_mode=mode, per_track=True)
    for scores, tracks in [(together, [*range(6)]), *((single, [track]) for track in range(6))]:
        part = () if len(tracks) > 1 else tracks[0]
        accuracy, within, jaccard = plain_scores(data, mode, tracks)
        assert_close(scores.occlusion_accuracy[part], accuracy)
        assert_close(scores.points_within[part], np.array(within))
        assert_close(scores.jaccard[part], np.array(jaccard))


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("per_track", [False, True])
def test_videos_are_scored_each_by_itself(batch: tuple[int, ...], per_track: bool) -> None:
    data = clip(3, batch)
    scores = track_scores(**data, query_mode="first", per_track=per_track)
    tracks = (6,) if per_track else ()
    assert scores.occlusion_accuracy.shape == scores.average_jaccard.shape == scores.average_points_within.shape == (*batch, *tracks)
    assert scores.jaccard.shape == (*batch, *tracks, 5)
    for video in np.ndindex(*batch):
        alone = track_scores(**{name: values[video] for name, values in data.items()}, query_mode="first", per_track=per_track)
        assert_close(scores.jaccard[video], alone.jaccard)


@given(SEEDS, st.sampled_from(MODES))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_perfect_prediction_scores_one_and_order_does_not_matter(seed: int, mode: QueryMode) -> None:
    data = clip(seed)
    truth = {"points_px": data["true_points_px"], "occluded": data["true_occluded"], "query_frames": np.zeros(6)}
    perfect = track_scores(**{**data, **truth}, query_mode=mode)
    for value in (perfect.occlusion_accuracy, perfect.average_points_within, perfect.average_jaccard):
        assert value == 1.0
    order = np.random.default_rng(seed).permutation(6)
    first, second = (track_scores(**values, query_mode=mode) for values in (data, {name: values[order] for name, values in data.items()}))
    assert_close(first.jaccard, second.jaccard)
    assert_close(first.points_within, second.points_within)


@given(SEEDS, st.sampled_from(MODES))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_wider_thresholds_never_lower_a_score(seed: int, mode: QueryMode) -> None:
    scores = track_scores(**clip(seed), query_mode=mode)
    assert (np.diff(scores.points_within) >= 0).all()
    assert (np.diff(scores.jaccard) >= 0).all()


def test_a_case_worked_out_by_hand() -> None:
    """Asked for in frame 1. After it: right; 3 px off; said to be hidden; said to be seen though hidden."""
    true = np.zeros((1, 6, 2))
    points = true.copy()
    points[0, 3] = (0.0, 3.0)
    points[0, 0] = 99.0
    true_occluded = np.array([[False, False, False, False, False, True]])
    occluded = np.array([[True, False, False, False, True, False]])
    scores = track_scores(points, occluded, true, true_occluded, np.array([1]), "first")
    assert_close(scores.occlusion_accuracy, 0.5)
    assert_close(scores.points_within, np.array([2 / 3, 2 / 3, 1, 1, 1]))
    assert_close(scores.jaccard, np.array([1 / 5, 1 / 5, 2 / 4, 2 / 4, 2 / 4]))
    strided = track_scores(points, occluded, true, true_occluded, np.array([1]), "strided")
    assert_close(strided.occlusion_accuracy, 0.4)
    assert_close(strided.points_within, np.array([2 / 4, 2 / 4, 3 / 4, 3 / 4, 3 / 4]))


def test_a_distance_on_the_threshold_is_not_within_it() -> None:
    true = np.zeros((1, 2, 2))
    seen = np.zeros((1, 2), np.bool_)
    scores = track_scores(true + np.array([0.0, 4.0]), seen, true, seen, np.array([0]), "first")
    assert scores.points_within.tolist() == [0, 0, 0, 1, 1]


def test_query_frames_are_rounded_halves_to_even() -> None:
    """0.6 and 1.5 mean frames 1 and 2, 0.5 means frame 0."""
    true, seen = np.zeros((1, 4, 2)), np.zeros((1, 4), np.bool_)
    points = true + 100.0 * (np.arange(4) >= 2)[:, None]
    scores = [track_scores(points, seen, true, seen, np.array([query]), "first") for query in (0.5, 0.6, 1.5)]
    assert_close(np.array([score.average_points_within for score in scores]), np.array([1 / 3, 0.0, 0.0]))
    strided = [track_scores(points, seen, true, seen, np.array([query]), "strided") for query in (0.5, 0.6, 1.5)]
    assert_close(np.array([score.average_points_within for score in strided]), np.array([1 / 3, 1 / 3, 2 / 3]))


def test_a_lost_point_is_far_off_and_nothing_to_count_is_nan() -> None:
    true = np.zeros((1, 3, 2))
    seen = np.zeros((1, 3), np.bool_)
    lost = track_scores(np.full_like(true, np.nan), seen, true, seen, np.array([0]), "first")
    assert (lost.average_points_within, lost.average_jaccard, lost.occlusion_accuracy) == (0.0, 0.0, 1.0)
    last = track_scores(true, seen, true, seen, np.array([2]), "first")
    assert np.isnan([last.average_points_within, last.average_jaccard, last.occlusion_accuracy]).all()
    empty = track_scores(np.zeros((0, 3, 2)), seen[:0], np.zeros((0, 3, 2)), seen[:0], np.zeros(0), "strided")
    assert np.isnan(empty.jaccard).all()


def test_query_places() -> None:
    occluded = np.array([[True, True, False, False, True, False], [False] * 6, [True] * 6])
    tracks, frames = query_places(occluded, "first")
    assert (tracks.tolist(), frames.tolist()) == ([0, 1], [2, 0])
    tracks, frames = query_places(occluded, "strided")
    assert (tracks.tolist(), frames.tolist()) == ([1, 0, 1], [0, 5, 5])


def test_broken_input_is_refused() -> None:
    data = clip(0)
    with pytest.raises(InputError, match=r"occluded is for .* \(6, 8\); must be \(6, 9\)"):
        track_scores(**{**data, "occluded": data["occluded"][:, 1:]}, query_mode="first")
    with pytest.raises(InputError, match=r"query_frames has shape \(5,\)"):
        track_scores(**{**data, "query_frames": data["query_frames"][1:]}, query_mode="first")
    with pytest.raises(InputError, match="first, strided"):
        track_scores(**data, query_mode="last")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="first, strided"):
        query_places(data["occluded"], "last")  # type: ignore[arg-type]
