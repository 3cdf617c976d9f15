"""Umeyama undoes a random similarity; triangulation finds the points of an analytic scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import assert_close
from tests.support.scenes import CAMERAS

from perception.core.errors import InputError
from perception.geometry import camera as camera_geometry
from perception.geometry import se3
from perception.geometry.alignment import similarity_scale, umeyama
from perception.geometry.triangulation import TriangulationConfig, triangulate


def similarity(rng: np.random.Generator, batch: tuple[int, ...], scale: float) -> np.ndarray:
    matrix = se3.exp(rng.normal(size=(*batch, 6)))
    matrix[..., :3, :3] *= scale
    return matrix


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100.0), num=st.integers(3, 30), batch=st.sampled_from([(), (2,), (1, 2)]))
def test_umeyama_undoes_a_similarity(seed, scale, num, batch):
    rng = np.random.default_rng(seed)
    truth, source = similarity(rng, batch, scale), rng.normal(size=(*batch, num, 3))
    target = se3.transform_points(truth, source)
    found = umeyama(source, target, with_scale=True)
    assert_close(se3.transform_points(found, source), target, atol=1e-7, rtol=1e-7)
    assert_close(similarity_scale(found), np.full(batch, scale), rtol=1e-7)
    assert_close(umeyama(torch.from_numpy(source), torch.from_numpy(target), with_scale=True), found, atol=1e-6, rtol=1e-6)


def test_weight_zero_takes_a_wrong_point_out():
    rng = np.random.default_rng(0)
    truth, source = similarity(rng, (), 1.0), rng.normal(size=(10, 3))
    target = se3.transform_points(truth, source)
    target[0] += 5.0
    weights = np.ones(10)
    assert np.abs(umeyama(source, target, weights, with_scale=False) - truth).max() > 0.1
    weights[0] = 0.0
    assert_close(umeyama(source, target, weights, with_scale=False), truth)


def test_a_mirrored_set_still_gives_a_proper_rotation():
    source = np.random.default_rng(1).normal(size=(20, 3))
    for with_scale in (False, True):
        found = umeyama(source, source * [1.0, 1.0, -1.0], with_scale=with_scale)
        assert np.linalg.det(found[:3, :3]) > 0


@pytest.mark.parametrize("points", [np.zeros((5, 3)), np.linspace(0, 1, 5)[:, None] * [1.0, 2.0, 3.0], np.eye(3)[:2]])
def test_degenerate_points_are_refused(points):
    with pytest.raises(InputError, match="one line"):
        umeyama(points, points, with_scale=True)


def test_shapes_and_weights_are_checked():
    with pytest.raises(InputError, match="must be"):
        umeyama(np.zeros((4, 3)), np.zeros((5, 3)), with_scale=False)
    with pytest.raises(InputError, match="weights"):
        umeyama(np.eye(3), np.eye(3), np.array([1.0, -1.0, 1.0]), with_scale=False)


def ring_of_views(num: int) -> np.ndarray:
    return np.stack(
        [se3.exp(np.array([0.1 * np.sin(a), 0.05 * np.cos(a), 1.0, 0.1 * np.cos(a), 0.3 * a - 0.6, 0.0])) for a in np.linspace(0, 4, num)]
    )


@pytest.mark.parametrize("model", list(CAMERAS))
def test_triangulation_finds_exact_points_from_ragged_tracks(model):
    rng, camera = np.random.default_rng(0), CAMERAS[model]
    poses, points = ring_of_views(7), rng.uniform(-0.2, 0.2, (50, 3))
    pixels = camera_geometry.project(se3.transform_points(poses, points), camera)
    visible = rng.random((7, 50)) < 0.6
    visible[:2, :] = True
    visible[1:, 0] = False  # one view only
    pixels[~visible] = np.nan
    found = triangulate(pixels, visible, poses, camera, TriangulationConfig())
    assert found.valid.tolist() == [False] + [True] * 49
    assert np.isnan(found.points[0]).all()
    assert_close(found.points[1:], points[1:], atol=1e-6)


def test_triangulation_leaves_a_wrong_observation_out_and_a_narrow_angle():
    camera, poses = CAMERAS["none"], ring_of_views(8)
    points = np.random.default_rng(1).uniform(-0.2, 0.2, (20, 3))
    pixels = camera_geometry.project(se3.transform_points(poses, points), camera)
    pixels[3, 5] += 40.0
    found = triangulate(pixels, np.ones((8, 20), bool), poses, camera, TriangulationConfig(max_error_px=4.0))
    assert not found.used[3, 5]
    assert_close(found.points[6], points[6], atol=1e-6)
    near = np.stack([poses[0], poses[0] @ se3.exp(np.array([1e-3, 0, 0, 0, 0, 0]))])
    pixels = camera_geometry.project(se3.transform_points(near, points), camera)
    assert not triangulate(pixels, np.ones((2, 20), bool), near, camera, TriangulationConfig()).valid.any()


def test_triangulation_of_nothing_and_of_wrong_shapes():
    empty = triangulate(np.empty((3, 0, 2)), np.empty((3, 0), bool), ring_of_views(3), CAMERAS["none"], TriangulationConfig())
    assert empty.points.shape == (0, 3)
    with pytest.raises(InputError, match="must be"):
        triangulate(np.empty((3, 4, 2)), np.empty((3, 5), bool), ring_of_views(3), CAMERAS["none"], TriangulationConfig())
