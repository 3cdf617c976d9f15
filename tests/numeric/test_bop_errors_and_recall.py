"""BOP pose errors and recall: plain twins, symmetric objects, cases worked out by hand, empty and broken input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.evaluation.metrics import bop_recall
from perception.evaluation.metrics.bop_errors import TAUS, mspd_error_px, mssd_error_m, projection_error_px, visible_surface_discrepancy
from perception.evaluation.metrics.bop_recall import ERROR_THRESHOLDS, ObjectErrors, average_recall, most_visible, num_found
from perception.evaluation.metrics.symmetries import symmetries_from_model_info
from perception.geometry import camera as camera_geometry
from perception.geometry import se3, so3

CAMERA = Camera(80, 60, 150.0, 152.0, 39.5, 29.5)
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
SEEDS = st.integers(0, 2**32 - 1)


def pose(rng: np.random.Generator, angle: float = 3.0) -> np.ndarray:
    rotation = so3.exp(rng.normal(size=3) * angle)
    return se3.from_rotation_translation(rotation, np.array([0.0, 0.0, 0.6]) + 0.05 * rng.normal(size=3))


def round_object(step: float = 0.05) -> np.ndarray:
    return symmetries_from_model_info({"symmetries_continuous": [{"axis": [0, 0, 2], "offset": [10, 20, 0]}]}, step)


def plain_worst(estimated: np.ndarray, true: np.ndarray, points: np.ndarray, symmetries: np.ndarray, camera: Camera | None) -> float:
    errors = []
    for motion in symmetries:
        at_estimate, at_truth = se3.transform_points(estimated, points), se3.transform_points(true @ motion, points)
        if camera is not None:
            at_estimate, at_truth = camera_geometry.project(at_estimate, camera), camera_geometry.project(at_truth, camera)
        errors.append(np.linalg.norm(at_estimate - at_truth, axis=1).max())
    return min(errors)


@given(SEEDS, st.integers(1, 400))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_mssd_and_mspd_equal_the_plain_search_over_all_points_and_symmetries(seed: int, num_points: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num_points, 3)) * (0.01, 0.03, 0.05)
    if seed % 2:
        points *= 0.05 / np.linalg.norm(points, axis=1, keepdims=True)
    symmetries, true = round_object(), pose(rng)
    estimated = true @ symmetries[rng.integers(len(symmetries))] @ se3.exp(0.02 * rng.normal(size=6)) if seed % 3 else pose(rng)
    assert_close(mssd_error_m(estimated, true, points, symmetries), plain_worst(estimated, true, points, symmetries, None))
    assert_close(mspd_error_px(estimated, true, points, CAMERA, symmetries), plain_worst(estimated, true, points, symmetries, CAMERA))


@given(SEEDS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_every_pose_that_a_symmetry_makes_of_the_truth_is_perfect(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, true, symmetries = 0.05 * rng.normal(size=(50, 3)), pose(rng), round_object()
    estimated = true @ symmetries[rng.integers(len(symmetries))]
    assert_close(mssd_error_m(estimated, true, points, symmetries), 0.0, atol=1e-12)
    assert_close(mspd_error_px(estimated, true, points, CAMERA, symmetries), 0.0, atol=1e-9)


@given(SEEDS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_errors_do_not_depend_on_the_order_of_points_and_symmetries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, true, estimated, symmetries = 0.05 * rng.normal(size=(30, 3)), pose(rng), pose(rng), round_object(0.3)
    shuffled, turned = rng.permutation(points), rng.permutation(symmetries)
    assert_close(mssd_error_m(estimated, true, shuffled, turned), mssd_error_m(estimated, true, points, symmetries))
    assert_close(mspd_error_px(estimated, true, shuffled, CAMERA, turned), mspd_error_px(estimated, true, points, CAMERA, symmetries))
    assert_close(projection_error_px(estimated, true, shuffled, CAMERA), projection_error_px(estimated, true, points, CAMERA))


def test_a_symmetry_can_only_lower_the_error_and_none_means_the_identity() -> None:
    rng = np.random.default_rng(0)
    points, true = 0.05 * rng.normal(size=(30, 3)), pose(rng)
    estimated = true @ HALF_TURN
    alone = mssd_error_m(estimated, true, points)
    assert alone == mssd_error_m(estimated, true, points, np.eye(4)[None])
    assert alone > 0.1
    assert_close(mssd_error_m(estimated, true, points, np.stack([np.eye(4), HALF_TURN])), 0.0)


def test_errors_of_a_known_shift() -> None:
    """3 cm aside and 4 cm back; and at a depth of 0.6 m, 1.2 cm aside are 150 * 0.012 / 0.6 = 3 px."""
    true = se3.from_rotation_translation(np.eye(3), np.array([0.0, 0.0, 0.6]))
    shifted, aside = true.copy(), true.copy()
    shifted[:3, 3] += (0.03, 0.0, 0.04)
    aside[0, 3] += 0.012
    points = np.array([[0.0, 0.0, 0.0], [0.01, 0.02, 0.0]])
    assert_close(mssd_error_m(shifted, true, points), 0.05)
    assert_close(mspd_error_px(aside, true, points, CAMERA), 3.0)
    assert_close(projection_error_px(aside, true, points, CAMERA), 3.0)


def test_symmetries_leave_the_axis_where_it_is_and_form_whole_turns() -> None:
    motions = round_object()
    assert len(motions) == 63
    assert_close(motions[0], np.eye(4))
    on_axis = np.array([[0.01, 0.02, 0.0], [0.01, 0.02, 0.3]])
    assert_close(se3.transform_points(motions, np.broadcast_to(on_axis, (63, 2, 3))), np.broadcast_to(on_axis, (63, 2, 3)))
    assert_close(np.linalg.matrix_power(motions[1], 63), np.eye(4))


def test_discrete_symmetries_come_after_the_identity_and_each_is_turned() -> None:
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    flip[2, 3] = 40.0
    only = symmetries_from_model_info({"symmetries_discrete": [flip.ravel().tolist()]})
    assert_close(only[0], np.eye(4))
    assert_close(only[1][:3, 3], np.array([0.0, 0.0, 0.04]))
    both = symmetries_from_model_info({"symmetries_discrete": [flip.ravel().tolist()], "symmetries_continuous": [{"axis": [0, 0, 1]}]}, 0.1)
    assert_close(both.reshape(2, 32, 4, 4)[1], both[:32] @ only[1])
    assert_close(symmetries_from_model_info({}), np.eye(4)[None])


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"symmetries_discrete": [[1.0] * 12]}, "12 numbers; must be 16"),
        ({"symmetries_continuous": [{"axis": [0, 0, 0], "offset": [0, 0, 0]}]}, "not all zero"),
        ({"symmetries_continuous": [{"offset": [0, 0, 0]}]}, "no `axis`"),
    ],
)
def test_broken_symmetries_are_refused(info: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        symmetries_from_model_info(info)


def test_broken_points_symmetries_and_lenses_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(0, 3\)"):
        mssd_error_m(np.eye(4), np.eye(4), np.zeros((0, 3)))
    with pytest.raises(InputError, match=r"\(0, 4, 4\)"):
        mssd_error_m(np.eye(4), np.eye(4), np.zeros((1, 3)), np.zeros((0, 4, 4)))
    bent = Camera(80, 60, 150.0, 152.0, 39.5, 29.5, "plumb_bob", (0.1, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="plumb_bob"):
        projection_error_px(np.eye(4), np.eye(4), np.ones((1, 3)), bent)


def depth_of(rows: slice, cols: slice, depth_m: float) -> np.ndarray:
    image = np.zeros((60, 80))
    image[rows, cols] = depth_m
    return image


PLATE = depth_of(slice(10, 30), slice(20, 60), 0.5)


@pytest.mark.parametrize("measured", [PLATE, np.zeros((60, 80)), np.full((60, 80), np.nan), PLATE - 0.01])
@pytest.mark.parametrize("cost", ["step", "linear"])
def test_vsd_of_the_true_pose_is_zero(measured: np.ndarray, cost: str) -> None:
    assert_close(visible_surface_discrepancy(PLATE, PLATE, measured, CAMERA, 0.2, cost=cost), np.zeros(10))  # type: ignore[arg-type]


def test_vsd_counts_what_only_one_of_the_poses_covers() -> None:
    """Half of the plate is missed and as much is added: one third of the union agrees."""
    aside = depth_of(slice(10, 30), slice(40, 80), 0.5)
    assert_close(visible_surface_discrepancy(aside, PLATE, np.zeros((60, 80)), CAMERA, 0.2), np.full(10, 2 / 3))


def test_vsd_of_a_shift_in_depth_changes_at_the_tolerance() -> None:
    """Some 2 cm along the ray are 0.1 of a diameter of 20 cm and a little more off the axis; a tenth counts up to tau = 0.1."""
    deeper = np.where(PLATE > 0, 0.52, 0.0)
    errors = visible_surface_discrepancy(deeper, PLATE, np.zeros((60, 80)), CAMERA, 0.2)
    assert_close(errors, np.array([1.0, 1.0, *[0.0] * 8]))
    linear = visible_surface_discrepancy(deeper, PLATE, np.zeros((60, 80)), CAMERA, 0.2, cost="linear")
    assert (np.diff(linear[1:]) < 0).all()
    assert_close(linear[3:] * TAUS[3:], np.full(7, linear[3] * TAUS[3]))


def test_vsd_does_not_count_what_the_scene_hides() -> None:
    """The right half of the plate lies behind something: there a wrong estimate does not matter."""
    hidden = PLATE.copy()
    hidden[:, 40:] = 0.3
    half = np.where(np.arange(80) < 40, PLATE, 0.0)
    assert_close(visible_surface_discrepancy(half, PLATE, hidden, CAMERA, 0.2), np.zeros(10))
    assert_close(visible_surface_discrepancy(half, PLATE, PLATE, CAMERA, 0.2), np.full(10, 0.5))


def test_vsd_is_one_when_nothing_is_visible() -> None:
    assert_close(visible_surface_discrepancy(PLATE, PLATE, np.full((60, 80), 0.2), CAMERA, 0.2), np.ones(10))
    assert_close(visible_surface_discrepancy(np.zeros((60, 80)), np.zeros((60, 80)), PLATE, CAMERA, 0.2), np.ones(10))


def test_vsd_refuses_images_of_another_size() -> None:
    with pytest.raises(InputError, match=r"\(60, 80\)"):
        visible_surface_discrepancy(PLATE, PLATE, np.zeros((30, 40)), CAMERA, 0.2)


def plain_num_found(scores: np.ndarray, errors: np.ndarray, targets: np.ndarray, threshold: float) -> int:
    free = set(np.flatnonzero(targets).tolist())
    for estimate in sorted(range(len(scores)), key=lambda index: -scores[index]):
        near = [(errors[estimate, true], true) for true in sorted(free) if errors[estimate, true] < threshold]
        if near:
            free.remove(min(near)[1])
    return int(targets.sum()) - len(free)


@given(SEEDS, st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_matching_equals_the_plain_one(seed: int, num_estimates: int, num_true: int) -> None:
    """Errors and scores of few values, so that there are ties; some unknown."""
    rng = np.random.default_rng(seed)
    errors = rng.integers(0, 12, (num_estimates, num_true, 3)) * 0.05
    errors[rng.random(errors.shape) < 0.1] = np.nan
    scores, targets = rng.integers(0, 4, num_estimates).astype(float), rng.random(num_true) < 0.7
    found = num_found(scores, errors, targets, ERROR_THRESHOLDS)
    expected = [[plain_num_found(scores, errors[..., kind], targets, threshold) for threshold in ERROR_THRESHOLDS] for kind in range(3)]
    assert found.tolist() == expected


def errors_of(error: float, num_estimates: int = 2, num_true: int = 2, diameter_m: float = 0.1, width: int = 640) -> ObjectErrors:
    """All estimates are `error` (share, of the diameter, of 50 px at a width of 640) away from all true poses."""
    pairs = (num_estimates, num_true)
    at_width = error * 50.0 * width / 640
    return ObjectErrors(
        np.ones(num_estimates),
        np.ones(num_true, np.bool_),
        np.full((*pairs, 10), error),
        np.full(pairs, error * diameter_m),
        np.full(pairs, at_width),
        diameter_m,
        width,
    )


def test_recall_of_perfect_and_of_hopeless_estimates() -> None:
    perfect, hopeless = average_recall([errors_of(0.0), errors_of(0.0)]), average_recall([errors_of(np.inf)])
    assert (perfect.mean, perfect.vsd, perfect.mssd, perfect.mspd, perfect.num_targets) == (1.0, 1.0, 1.0, 1.0, 4)
    assert (hopeless.mean, hopeless.num_targets) == (0.0, 2)


@pytest.mark.parametrize(("diameter_m", "width"), [(0.1, 640), (0.3, 640), (0.1, 1280)])
def test_errors_count_by_diameter_and_image_width(diameter_m: float, width: int) -> None:
    """0.22 is below the thresholds 0.25 ... 0.50, 11 px below 15 ... 50."""
    recall = average_recall([errors_of(0.22, diameter_m=diameter_m, width=width)])
    assert_close(np.array([recall.vsd, recall.mssd, recall.mspd]), np.array([0.6, 0.6, 0.8]))


def test_each_estimate_finds_one_target_and_missing_ones_count() -> None:
    assert_close(average_recall([errors_of(0.0, num_estimates=1), errors_of(0.0, num_estimates=0)]).mean, 0.25)
    assert_close(average_recall([errors_of(0.0, num_estimates=5), errors_of(0.0, num_true=0)]).mean, 1.0)


@pytest.mark.parametrize("items", [[], [errors_of(0.0, num_true=0)]])
def test_recall_of_nothing_is_zero(items: list[ObjectErrors]) -> None:
    recall = average_recall(items)
    assert (recall.mean, recall.num_targets, recall.vsd_recall.shape) == (0.0, 0, (10, 10))


def test_recall_does_not_depend_on_the_order_of_images() -> None:
    items = [errors_of(error, num_estimates) for error, num_estimates in itertools.product((0.0, 0.12, 0.33, 0.6), (0, 1, 2))]
    assert average_recall(items).mean == average_recall(reversed(items)).mean


def test_the_most_visible_instances_are_targets() -> None:
    assert most_visible(np.array([0.2, 0.9, 0.5, 0.9]), 2).tolist() == [False, True, False, True]
    assert most_visible(np.array([0.5, 0.5, 0.5]), 2).tolist() == [True, True, False]
    assert most_visible(np.zeros(0), 2).tolist() == []


def test_errors_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(InputError, match=r"mssd_m is for \(3, 2\).*\(2, 2\)"):
        ObjectErrors(np.ones(2), np.ones(2, np.bool_), np.ones((2, 2, 10)), np.ones((3, 2)), np.ones((2, 2)), 0.1, 640)
    with pytest.raises(InputError, match="diameter 0"):
        ObjectErrors(np.ones(1), np.ones(1, np.bool_), np.ones((1, 1, 10)), np.ones((1, 1)), np.ones((1, 1)), 0.0, 640)
    assert bop_recall.WIDTH_PX == 640
