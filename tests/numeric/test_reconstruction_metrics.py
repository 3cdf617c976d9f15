"""Metrics of reconstruction: what they do not depend on, exact values, little or nothing to go by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.errors import InputError
from perception.evaluation.metrics.depth import average_depth_scores, depth_scores
from perception.evaluation.metrics.point_maps import icp, normals_of_points, point_scores, reconstruction_scores
from perception.evaluation.metrics.relative_pose import PairErrors, area_under_curve, pair_errors, share_below
from perception.evaluation.metrics.trajectory import (
    absolute_pose_errors,
    aligned_trajectory,
    error_statistics,
    pairs_by_frames,
    pairs_by_path,
    relative_pose_errors,
    trajectory_scores,
)
from perception.geometry import se3


def poses(count=8, seed=0, spread=1.0):
    return se3.exp(spread * np.random.default_rng(seed).normal(size=(count, 6)))


def scaled(world_from_camera, scale):
    result = world_from_camera.copy()
    result[:, :3, 3] *= scale
    return result


def noisy(world_from_camera, seed=1):
    return world_from_camera @ poses(len(world_from_camera), seed, 0.1)


# Relative poses


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_relative_poses_do_not_depend_on_world_and_scale(scale, seed):
    true, estimated = poses(seed=seed), noisy(poses(seed=seed))
    world = se3.exp(np.random.default_rng(seed + 1).normal(size=6))
    expected = pair_errors(se3.inverse(estimated), se3.inverse(true))
    errors = pair_errors(se3.inverse(world @ scaled(estimated, scale)), se3.inverse(true))
    np.testing.assert_allclose(errors.rotation_deg, expected.rotation_deg, atol=1e-5)
    np.testing.assert_allclose(errors.translation_deg, expected.translation_deg, atol=1e-6)


def test_right_poses_have_no_error_and_turned_ones_the_angle():
    true = np.tile(np.eye(4), (2, 1, 1))
    true[1, :3, 3] = (1, 0, 0)
    assert pair_errors(true, true).rotation_deg == pytest.approx(0, abs=1e-5)
    turned = true.copy()
    turned[1] = se3.exp(np.array([0, 0, 0, 0, 0, np.radians(40)])) @ turned[1]
    errors = pair_errors(turned, true)
    assert errors.rotation_deg == pytest.approx(40)
    assert errors.translation_deg == pytest.approx(40)
    turned[1, :3, 3] = (-1, 0.0, 0)
    assert pair_errors(turned, true).translation_deg == pytest.approx(0)
    assert pair_errors(turned, true, either_direction=False).translation_deg == pytest.approx(180)


def test_missing_poses_are_misses_and_cameras_at_one_place_have_no_direction():
    true = poses()
    estimated = true.copy()
    estimated[2] = np.nan
    errors = pair_errors(estimated, true)
    first, second = np.triu_indices(8, k=1)
    np.testing.assert_array_equal(np.isinf(errors.rotation_deg), (first == 2) | (second == 2))
    assert share_below(errors.rotation_deg, 5) == area_under_curve(errors) == pytest.approx(21 / 28)
    still = true.copy()
    still[:, :3, 3] = 0
    assert (pair_errors(still, true).translation_deg == 90).all()


def test_area_under_curve_counts_the_larger_error():
    errors = PairErrors(np.array([0.5, 2.5, 100.0, 3.0]), np.array([1.5, 0.0, 0.0, np.inf]))
    assert area_under_curve(errors, 4) == pytest.approx((0 + 1 / 4 + 2 / 4 + 2 / 4) / 4)
    assert area_under_curve(errors, 4, "torch") <= area_under_curve(errors, 4)


def test_fewer_than_two_frames_have_no_pairs():
    for count in (0, 1):
        errors = pair_errors(poses(count), poses(count))
        assert np.isnan([share_below(errors.rotation_deg, 5), area_under_curve(errors)]).all()


def test_relative_poses_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"\(frames, 4, 4\)"):
        pair_errors(poses(3), poses(4))
    with pytest.raises(InputError, match="true pose"):
        pair_errors(poses(2), np.full((2, 4, 4), np.nan))
    with pytest.raises(InputError, match="must be one of"):
        pair_errors(poses(2), poses(2), "sideways")


# Trajectories


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_scores_after_the_best_similarity_do_not_depend_on_any(scale, seed):
    true, estimated = poses(seed=seed), noisy(poses(seed=seed))
    world = se3.exp(np.random.default_rng(seed + 1).normal(size=6))
    moved = world @ scaled(estimated, scale)
    np.testing.assert_allclose(trajectory_scores(moved, true), trajectory_scores(estimated, true), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(trajectory_scores(world @ scaled(true, scale), true), (0, 0, 0), atol=1e-6)


def test_every_alignment_undoes_its_own_motion():
    true, world = poses(), se3.exp(np.array([1.0, 2, 3, 0.3, 0.2, 0.1]))
    moved = {"none": true, "first_pose": world @ true, "rigid": world @ true, "scale": scaled(true, 3), "similarity": world @ scaled(true, 3)}
    for alignment, estimated in moved.items():
        np.testing.assert_allclose(aligned_trajectory(estimated, true, alignment), true, atol=1e-9)
    assert trajectory_scores(world @ true, true, "none").ate > 1


def test_cameras_on_a_line_leave_the_rotation_open_and_are_refused():
    line = np.tile(np.eye(4), (5, 1, 1))
    line[:, 0, 3] = np.arange(5)
    with pytest.raises(InputError, match="line"):
        trajectory_scores(line, line)
    assert trajectory_scores(line, line, "first_pose").ate == 0


def test_one_frame_has_no_relative_errors():
    scores = trajectory_scores(poses(1), poses(1), "first_pose")
    assert scores.ate == pytest.approx(0, abs=1e-12)
    assert np.isnan([scores.rpe_translation, scores.rpe_rotation_deg]).all()
    assert np.isnan(error_statistics(np.array([]))).all()


def test_errors_of_one_wrong_pose_are_seen_once_absolutely_and_twice_relatively():
    true = poses()
    estimated = true.copy()
    estimated[3, :3, 3] += (0, 0.3, 0.4)
    np.testing.assert_allclose(absolute_pose_errors(estimated, true).translation, [0, 0, 0, 0.5, 0, 0, 0, 0], atol=1e-12)
    relative = relative_pose_errors(estimated, true, pairs_by_frames(8, 1))
    np.testing.assert_allclose(relative.translation, [0, 0, 0.5, 0.5, 0, 0, 0], atol=1e-9)


def test_pairs_overlap_or_follow_each_other():
    np.testing.assert_array_equal(pairs_by_frames(5, 2), [(0, 2), (1, 3), (2, 4)])
    np.testing.assert_array_equal(pairs_by_frames(5, 2, overlapping=False), [(0, 2), (2, 4)])
    assert pairs_by_frames(2, 3).shape == (0, 2)
    line = np.tile(np.eye(4), (6, 1, 1))
    line[:, 0, 3] = 0.4 * np.arange(6)
    np.testing.assert_array_equal(pairs_by_path(line, 1.0), [(0, 3)])
    assert pairs_by_path(line, 10.0).shape == (0, 2)


def test_trajectories_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="at least one frame"):
        trajectory_scores(poses(0), poses(0))
    with pytest.raises(InputError, match="finite"):
        trajectory_scores(np.full((3, 4, 4), np.nan), poses(3))
    with pytest.raises(InputError, match="no rotation"):
        trajectory_scores(np.zeros((3, 4, 4)), poses(3))
    with pytest.raises(InputError, match="must be one of"):
        trajectory_scores(poses(3), poses(3), "affine")


# Depth


def depths(seed=0):
    generator = np.random.default_rng(seed)
    true = generator.uniform(1, 8, (2, 12, 10)).astype(np.float32)
    return true * np.exp(0.05 * generator.normal(size=true.shape)).astype(np.float32), true


@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 100.0), st.sampled_from(["median", "scale", "least_squares"]))
def test_aligned_depth_scores_do_not_depend_on_the_scale(scale, alignment):
    depth, true = depths()
    expected, scores = depth_scores(depth, true, alignment), depth_scores(np.float32(scale) * depth, true, alignment)
    np.testing.assert_allclose(scores[:4], expected[:4], rtol=1e-3)


def test_right_depth_has_no_error_and_wrong_one_the_exact_values():
    _, true = depths()
    perfect = depth_scores(true, true, "metric")
    assert perfect[:4] == (0, 0, 0, 0)
    assert perfect.within == (1, 1, 1)
    double = depth_scores(2 * true, true, "metric")
    assert double.abs_rel == pytest.approx(1)
    assert double.log_rmse == pytest.approx(np.log(2), rel=1e-5)
    assert double.within == (0, 0, 0)
    assert depth_scores(2 * true, true, "median").abs_rel == pytest.approx(0, abs=1e-6)
    assert depth_scores(2 * true + 1, true, "least_squares")[:3] == pytest.approx((0, 0, 0), abs=1e-5)


def test_pixels_without_true_depth_and_beyond_the_limit_do_not_count():
    depth, true = depths()
    true[0, 0] = 0
    true[1, 0] = np.nan
    depth[:, 0] = np.nan
    scores = depth_scores(depth, true, "metric", max_depth=6)
    counted = (true > 0) & (true < 6)
    assert scores.num_pixels == counted.sum()
    assert scores.abs_rel == pytest.approx(np.mean(np.abs(depth - true)[counted] / true[counted]), rel=1e-5)
    assert depth_scores(np.full_like(true, 9), np.ones_like(true), "metric", clip_above=2).abs_rel == 1


def test_no_true_depth_gives_nan_and_no_weight():
    depth, true = depths()
    nothing, something = depth_scores(depth, 0 * true), depth_scores(depth, true)
    assert np.isnan([*nothing[:4], *nothing.within]).all()
    mean = average_depth_scores([nothing, something])
    assert mean[:4] == pytest.approx(something[:4])
    assert mean.within == pytest.approx(something.within)
    assert mean.num_pixels == something.num_pixels
    assert np.isnan(average_depth_scores([]).abs_rel)
    half = depth_scores(depth[:1], true[:1])
    mean = average_depth_scores([something, half])
    assert mean.rmse == pytest.approx((2 * something.rmse + half.rmse) / 3)


def test_depth_that_does_not_fit_is_refused():
    depth, true = depths()
    with pytest.raises(InputError, match="must be equal"):
        depth_scores(depth[:1], true)
    with pytest.raises(InputError, match="finite"):
        depth_scores(depth * np.nan, true)
    with pytest.raises(InputError, match="must be one of"):
        depth_scores(depth, true, "affine")


# Points


def sphere(count=400, seed=0):
    """Points on a bumpy sphere and the directions from its centre."""
    direction = np.random.default_rng(seed).normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * (1, 0.7, 0.5), direction


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_scores_of_a_reconstruction_do_not_depend_on_its_world_and_scale(scale, seed):
    true, _ = sphere()
    predicted = true + np.random.default_rng(2).normal(0, 0.01, true.shape)
    world = se3.exp(np.random.default_rng(seed).normal(size=6))
    expected = reconstruction_scores(predicted, true)
    np.testing.assert_allclose(reconstruction_scores(scale * se3.transform_points(world, predicted), true), expected, rtol=1e-6)
    np.testing.assert_allclose(reconstruction_scores(true, true), (0, 0, 0, 0, 1, 1, 1, 1), atol=1e-9)


def test_distances_both_ways_of_a_lone_point():
    true = np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 3]])
    scores = point_scores(np.array([[0.0, 0, 1.5]]), true, np.array([[0.0, 0, -1]]), np.array([[0.0, 0, 1], [0, 0, 1], [1, 0, 0]]))
    assert (scores.accuracy, scores.completion, scores.completion_median) == pytest.approx((0.5, (1.5 + 0.5 + 1.5) / 3, 1.5))
    assert (scores.normal_accuracy, scores.normal_completion) == pytest.approx((1, 2 / 3))


def test_icp_undoes_a_small_motion_and_leaves_what_is_out_of_reach():
    true, _ = sphere(2000)
    motion = se3.exp(np.array([0.01, -0.02, 0.01, 0.02, -0.01, 0.03]))
    result = icp(se3.transform_points(motion, true), true, 0.2)
    np.testing.assert_allclose(result.target_from_source @ motion, np.eye(4), atol=1e-3)
    assert result.fitness == 1
    far = icp(true + 10, true, 0.1)
    np.testing.assert_array_equal(far.target_from_source, np.eye(4))
    assert (far.fitness, far.rmse) == (0, 0)


def test_normals_of_a_plane_are_exact_and_few_points_have_a_stand_in():
    normal = np.array([0.6, 0.0, 0.8])
    points = np.random.default_rng(0).normal(size=(200, 3))
    points -= np.outer(points @ normal, normal)
    np.testing.assert_allclose(np.abs(normals_of_points(points) @ normal), 1)
    np.testing.assert_array_equal(normals_of_points(points[:2]), [[0, 0, 1], [0, 0, 1]])


def test_no_points_give_nan_and_wrong_ones_are_refused():
    nothing, three = np.zeros((0, 3)), np.eye(3)
    assert np.isnan(reconstruction_scores(nothing, nothing)).all()
    assert np.isnan(point_scores(nothing, three)).all()
    assert np.isnan(point_scores(three, three).normal_accuracy)
    with pytest.raises(InputError, match="line"):
        reconstruction_scores(np.outer(np.arange(4), (1, 1, 1)), np.outer(np.arange(4), (1, 1, 1)))
    with pytest.raises(InputError, match="same pixels"):
        reconstruction_scores(three, nothing)
    with pytest.raises(InputError, match="finite"):
        point_scores(three * np.nan, three)
