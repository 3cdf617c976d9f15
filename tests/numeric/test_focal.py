"""Focal length of point maps."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.errors import InputError
from perception.geometry.focal import focal_of_point_map, median_focal_of_point_map

HEIGHT, WIDTH, CENTRE = 12, 16, (7.3, 5.1)
BOTH = [focal_of_point_map, median_focal_of_point_map]


def point_map(focal_px, batch=(), seed=0):
    depth = np.random.default_rng(seed).uniform(1.0, 6.0, (*batch, HEIGHT, WIDTH))
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([(column - CENTRE[0]) / focal_px * depth, (row - CENTRE[1]) / focal_px * depth, depth], axis=-1)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("focal_of", BOTH)
def test_focal_of_exact_points_is_found(batch, array, focal_of):
    focal = focal_of(array(point_map(20.0, batch)), CENTRE)
    assert focal.shape == batch
    np.testing.assert_allclose(focal, 20.0, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(2.0, 500.0), st.floats(0.01, 100.0))
def test_focal_does_not_depend_on_the_unit_of_the_points(focal_px, unit):
    points = point_map(focal_px) + np.random.default_rng(1).normal(0, 1e-3, (HEIGHT, WIDTH, 3))
    np.testing.assert_allclose(focal_of_point_map(unit * points, CENTRE), focal_of_point_map(points, CENTRE), rtol=1e-9)


def test_wrong_points_move_the_robust_estimate_far_less_than_least_squares():
    points = point_map(20.0)
    points[0, :8, :2] *= 3.0
    robust, least_squares = (float(focal_of_point_map(points, CENTRE, num_iterations=n)) for n in (50, 0))
    assert abs(robust - 20.0) < 0.1 < 3.0 < abs(least_squares - 20.0)


def test_the_median_is_that_of_all_votes_and_the_lower_one_of_two():
    points = np.random.default_rng(2).normal((0.0, 0.0, 4.0), size=(3, HEIGHT, WIDTH, 3))
    points[0, 2, 3] = np.nan
    points[1, :, 7, 0] = 0.0
    column, row = np.meshgrid(np.arange(WIDTH) - 7.0, np.arange(HEIGHT) - 5.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        votes = np.concatenate([column * points[..., 2] / points[..., 0], row * points[..., 2] / points[..., 1]], axis=-1)
    expected = torch.from_numpy(votes.reshape(3, -1)).nanmedian(dim=1).values
    np.testing.assert_allclose(median_focal_of_point_map(points, (7.0, 5.0)), expected, rtol=1e-12)
    np.testing.assert_allclose(median_focal_of_point_map(torch.from_numpy(points), (7.0, 5.0)), expected, rtol=1e-12)


def test_less_than_half_of_wrong_points_do_not_move_the_median_of_exact_ones():
    points = point_map(20.0)
    points[:5, :, :2] *= 3.0
    np.testing.assert_allclose(median_focal_of_point_map(points, CENTRE), 20.0, rtol=1e-9)


@pytest.mark.parametrize("focal_of", BOTH)
def test_points_that_are_no_numbers_or_masked_out_do_not_count(focal_of):
    points = point_map(20.0)
    points[0, 0] = np.nan
    points[1, 1, 2] = 0.0
    valid = np.ones((HEIGHT, WIDTH), bool)
    points[5:, 3] *= (5.0, 5.0, 1.0)
    valid[5:, 3] = False
    np.testing.assert_allclose(focal_of(points, CENTRE, valid), 20.0, rtol=1e-9)


@pytest.mark.parametrize("focal_of", BOTH)
def test_nothing_to_go_by_gives_nan_without_a_warning(focal_of):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(focal_of(point_map(20.0), CENTRE, np.zeros((HEIGHT, WIDTH), bool)))
        assert np.isnan(focal_of(point_map(20.0) * (np.nan, 0.0, 1.0), CENTRE))
    assert np.isnan(focal_of_point_map(point_map(20.0) * (0.0, 0.0, 1.0), CENTRE))


@pytest.mark.parametrize(
    "arguments", [(np.zeros((4, 3)), CENTRE), (np.zeros((4, 5, 3)), (1.0,)), (np.zeros((4, 5, 3)), CENTRE, np.zeros((4, 4), bool))]
)
def test_shapes_that_do_not_fit_are_refused(arguments):
    with pytest.raises(InputError, match="must be"):
        focal_of_point_map(*arguments)
