"""Focal length of point maps."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import PARITY

from perception.core.errors import InputError
from perception.geometry.focal import focal_of_point_map

HEIGHT, WIDTH, CENTRE = 12, 16, (7.3, 5.1)


def point_map(focal_px, batch=(), seed=0):
    depth = np.random.default_rng(seed).uniform(1.0, 6.0, (*batch, HEIGHT, WIDTH))
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([(column - CENTRE[0]) / focal_px * depth, (row - CENTRE[1]) / focal_px * depth, depth], axis=-1)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy])
def test_focal_of_exact_points_is_found(batch, array):
    focal = focal_of_point_map(array(point_map(20.0, batch)), CENTRE)
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


def test_points_that_are_no_numbers_or_masked_out_do_not_count():
    points = point_map(20.0)
    points[0, 0] = np.nan
    points[1, 1, 2] = 0.0
    valid = np.ones((HEIGHT, WIDTH), bool)
    points[5:, 3] *= (5.0, 5.0, 1.0)
    valid[5:, 3] = False
    np.testing.assert_allclose(focal_of_point_map(points, CENTRE, valid), 20.0, rtol=1e-9)


def test_nothing_to_go_by_gives_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(focal_of_point_map(point_map(20.0), CENTRE, np.zeros((HEIGHT, WIDTH), bool)))
        assert np.isnan(focal_of_point_map(point_map(20.0) * (0.0, 0.0, 1.0), CENTRE))


@pytest.mark.parametrize(
    "arguments", [(np.zeros((4, 3)), CENTRE), (np.zeros((4, 5, 3)), (1.0,)), (np.zeros((4, 5, 3)), CENTRE, np.zeros((4, 4), bool))]
)
def test_shapes_that_do_not_fit_are_refused(arguments):
    with pytest.raises(InputError, match="must be"):
        focal_of_point_map(*arguments)


ALIGNMENTS = sorted(path.parent for path in PARITY.rglob("config.json") if "gt_focal" in json.loads(path.read_text()))


@pytest.mark.parity
@pytest.mark.parametrize("folder", ALIGNMENTS, ids=str)
def test_focal_of_each_edge_is_the_one_of_dust3r(folder):
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        points = torch.from_numpy(inputs["pred_i"])
        *_, height, width, _ = points.shape
        np.testing.assert_allclose(focal_of_point_map(points, (width / 2, height / 2)), outputs["edge_focal_weiszfeld"], rtol=1e-5)
