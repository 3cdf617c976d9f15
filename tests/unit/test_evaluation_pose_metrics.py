"""Pose errors and recall: against definitions worked out by hand, symmetric objects, empty and missed input."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.evaluation.metrics.pose import (
    add_error_m,
    adi_error_m,
    median_error,
    pose_error,
    pose_recall,
    rotation_error_deg,
    translation_error_cm,
)
from perception.geometry import so3


def pose(
    rotation_vector_deg: tuple[float, float, float] = (0.0, 0.0, 0.0), translation_m: tuple[float, float, float] = (0.0, 0.0, 1.0)
) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = so3.exp(np.radians(np.array(rotation_vector_deg, np.float64)))
    matrix[:3, 3] = translation_m
    return matrix


@pytest.mark.parametrize("angle_deg", [0.0, 1e-5, 1.0, 90.0, 179.0, 180.0])
def test_rotation_error_is_the_angle(angle_deg: float) -> None:
    start = pose((10.0, 20.0, 30.0))
    assert_close(rotation_error_deg(start @ pose((0.0, angle_deg, 0.0), (0, 0, 0)), start), angle_deg, atol=1e-6)


def test_errors_keep_batch_dimensions() -> None:
    batch = np.broadcast_to(pose(), (2, 3, 4, 4))
    assert rotation_error_deg(batch, batch).shape == translation_error_cm(batch, batch).shape == (2, 3)


def test_position_of_object_and_of_camera_differ_with_rotation() -> None:
    """A camera 2 m in front of the object that is believed turned by 90 degrees about it stands 2 * sqrt(2) m away from the truth."""
    true, estimated = pose(translation_m=(0, 0, 2)), pose((0, 90, 0), (0, 0, 2))
    assert_close(translation_error_cm(estimated, true), 0.0)
    assert_close(translation_error_cm(estimated, true, "camera"), 200 * np.sqrt(2))


def test_symmetric_object_is_judged_by_its_nearest_equal_pose() -> None:
    quarter_turns = [pose((0, 0, 90.0 * k), (0, 0, 0)) for k in (1, 2, 3)]
    estimated = pose((0, 0, 92.0), (0.01, 0, 1))
    assert_close(np.array(pose_error(estimated, pose())), np.array([92.0, 1.0]))
    assert_close(np.array(pose_error(estimated, pose(), quarter_turns)), np.array([2.0, 1.0]))
    assert_close(np.array(pose_error(pose(), pose(), quarter_turns)), np.zeros(2), atol=1e-6)


def test_symmetry_beside_the_origin_moves_the_true_position_too() -> None:
    """A half turn about an axis 10 cm beside the origin: the estimate that follows it is right in rotation and in translation."""
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    half_turn[0, 3] = 0.2
    assert_close(np.array(pose_error(pose() @ half_turn, pose(), [half_turn])), np.zeros(2), atol=1e-6)
    assert_close(np.array(pose_error(pose() @ half_turn, pose())), np.array([180.0, 20.0]))


def test_missing_estimate_is_infinitely_wrong() -> None:
    assert pose_error(None, pose()) == (np.inf, np.inf)


def test_recall_is_strict_and_counts_misses() -> None:
    rotation_deg = np.array([0.5, 1.0, 2.9, 0.0, np.inf, np.nan])
    translation_cm = np.array([0.5, 0.5, 2.9, 5.0, np.inf, 0.0])
    assert_close(pose_recall(rotation_deg, translation_cm), np.array([1, 3, 3]) / 6)


def test_recall_of_nothing_is_nan_and_of_all_missed_is_zero() -> None:
    assert np.isnan(pose_recall(np.zeros(0), np.zeros(0))).all()
    assert (pose_recall(np.full(3, np.inf), np.full(3, np.inf)) == 0).all()


def test_recall_refuses_lists_of_unequal_length() -> None:
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\)"):
        pose_recall(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [([], np.nan), ([2.0], 2.0), ([1.0, 3.0], 2.0), ([1.0, 2.0, np.inf], 2.0), ([1.0, np.inf], np.inf), ([np.inf, np.inf, 1.0], np.inf)],
)
def test_median(errors: list[float], expected: float) -> None:
    np.testing.assert_equal(median_error(np.array(errors)), expected)


def test_add_and_adi_of_a_shift_and_of_a_symmetry() -> None:
    square = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]) * 0.1
    quarter_turn = pose((0, 0, 90))
    assert_close(add_error_m(pose(translation_m=(0, 0.03, 1.04)), pose(), square), 0.05)
    assert_close(add_error_m(quarter_turn, pose(), square), 0.1 * np.sqrt(2))
    assert_close(adi_error_m(quarter_turn, pose(), square), 0.0)


def test_add_without_points_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(0, 3\)"):
        add_error_m(pose(), pose(), np.zeros((0, 3)))
