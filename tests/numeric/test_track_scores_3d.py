"""Scores of tracks in space: exact values, what each scaling makes up for, nothing to count."""

import numpy as np
import pytest

from perception.core.errors import InputError
from perception.evaluation.metrics.tracking_3d import Scaling, track_scores_3d

TRACKS, FRAMES = 4, 6
INTRINSICS = np.array([200.0, 300.0, 128.0, 128.0])


def tracks(*videos, seed=0):
    points = np.random.default_rng(seed).normal(size=(*videos, TRACKS, FRAMES, 3)) * 0.3 + (0, 0, 3)
    return points, np.zeros(points.shape[:-1], bool)


def queries(*videos):
    return np.zeros((*videos, TRACKS))


@pytest.mark.parametrize("scaling", Scaling.__args__)
def test_right_tracks_of_any_scale_score_one_where_the_scaling_makes_up_for_it(scaling):
    points, seen = tracks()
    factor = 1.0 if scaling == "none" else 3.0
    scores = track_scores_3d(factor * points, seen, points, seen, intrinsics=INTRINSICS, scaling=scaling, query_frames=queries())
    assert scores.average_jaccard == scores.average_points_within == scores.occlusion_accuracy == 1
    wrong = track_scores_3d(3 * points, seen, points, seen, scaling="none")
    assert wrong.average_points_within < 0.5


def test_threshold_is_that_of_a_pixel_at_the_depth_of_the_point():
    points, seen = tracks()
    focal_px = np.sqrt(200.0 * 300.0)
    for off_px, expected in ((1.9, (0, 1, 1, 1, 1)), (2.1, (0, 0, 1, 1, 1)), (17.0, (0, 0, 0, 0, 0))):
        moved = points + np.array([0, 1.0, 0]) * points[..., 2:] * off_px / focal_px
        np.testing.assert_array_equal(track_scores_3d(moved, seen, points, seen, intrinsics=INTRINSICS, scaling="none").points_within, expected)
    np.testing.assert_array_equal(track_scores_3d(points + np.array([0, 0, 0.05]), seen, points, seen, scaling="none").points_within, (0, 0, 1, 1, 1))


@pytest.mark.parametrize("videos", [(), (2,), (1, 2)])
@pytest.mark.parametrize("scaling", Scaling.__args__)
def test_videos_are_scored_by_themselves(videos, scaling):
    points, seen = tracks(*videos)
    noisy = points + np.random.default_rng(1).normal(0, 0.05, points.shape)
    for per_track in (False, True):
        scores = track_scores_3d(noisy, seen, points, seen, scaling=scaling, query_frames=queries(*videos), per_track=per_track)
        assert scores.jaccard.shape == (*videos, *((TRACKS,) if per_track else ()), 5)
        for video in np.ndindex(*videos):
            alone = track_scores_3d(
                noisy[video], seen[video], points[video], seen[video], scaling=scaling, query_frames=queries(), per_track=per_track
            )
            np.testing.assert_allclose(scores.jaccard[video], alone.jaccard)


def test_nothing_seen_has_no_scores_and_points_that_are_no_numbers_are_far():
    points, seen = tracks()
    nothing = track_scores_3d(points, seen, points, ~seen)
    assert np.isnan(nothing.points_within).all()
    assert nothing.occlusion_accuracy == 0
    gone = points.copy()
    gone[0] = np.nan
    np.testing.assert_allclose(track_scores_3d(gone, seen, points, seen, scaling="none").points_within, 1 - 1 / TRACKS)


def test_arguments_that_do_not_fit_are_refused():
    points, seen = tracks()
    for arguments, more, message in (
        ((points[..., :2], seen, points, seen), {}, "points is for"),
        ((points, seen[1:], points, seen), {}, "occluded is for"),
        ((points, seen, points, seen), {"scaling": "per_trajectory"}, "query_frames"),
        ((points, seen, points, seen), {"scaling": "best"}, "must be one of none"),
        ((points, seen, points, seen), {"intrinsics": np.eye(3)}, "fx fy cx cy"),
    ):
        with pytest.raises(InputError, match=message):
            track_scores_3d(*arguments, **more)
