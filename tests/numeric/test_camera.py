"""Projection and its inverse for each distortion model; depth images; normals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from tests.support.closeness import assert_close
from tests.support.scenes import CAMERAS

from perception.core.types import Camera
from perception.geometry import camera as camera_geometry
from perception.geometry.point_maps import normals_from_depth

MODELS = list(CAMERAS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_projection_undoes_unprojection(model, batch):
    camera, rng = CAMERAS[model], np.random.default_rng(0)
    pixels, depth = rng.uniform(0, (639, 479), (*batch, 40, 2)), rng.uniform(0.3, 4.0, (*batch, 40))
    points = camera_geometry.unproject(pixels, depth, camera)
    assert_close(points[..., 2], depth)
    assert_close(camera_geometry.project(points, camera), pixels)
    assert_close(camera_geometry.project(torch.from_numpy(points), camera), pixels)
    assert_close(camera_geometry.project(points.astype(np.float32), camera), pixels, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_projection_equals_opencv(model):
    camera = CAMERAS[model]
    points = np.random.default_rng(1).uniform([-0.4, -0.3, 1.0], [0.4, 0.3, 2.0], (50, 3))
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    expected, _ = project(points[:, None], np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.distortion))
    assert_close(camera_geometry.project(points, camera), expected[:, 0])


@pytest.mark.parametrize("model", MODELS)
def test_projection_has_gradients(model):
    points = torch.tensor([[0.1, -0.2, 1.0], [0.0, 0.0, 2.0], [0.3, 0.2, 1.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: camera_geometry.project(p, CAMERAS[model]), points)


def test_points_behind_the_camera_have_no_pixel():
    pixels = camera_geometry.project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), CAMERAS["none"])
    assert np.isnan(pixels[:2]).all()
    assert_close(pixels[2], np.array([322.0, 238.0]))


def test_pixels_that_the_lens_cannot_reach_are_nan():
    camera = Camera(640, 480, 300.0, 300.0, 320.0, 240.0, "plumb_bob", (-0.3, 0.0, 0.0, 0.0))
    assert np.isnan(camera_geometry.undistort_points(np.array([[2000.0, 240.0]]), camera)).all()
    assert np.isfinite(camera_geometry.undistort_points(np.array([[480.0, 240.0]]), camera)).all()


@pytest.mark.parametrize("model", MODELS)
def test_depth_images_become_point_maps(model):
    camera, rng = CAMERAS[model].resized(64, 48), np.random.default_rng(2)
    depth = rng.uniform(0.5, 2.0, (48, 64)).astype(np.float32)
    depth[3, 4], depth[5, 6], depth[7, 8] = 0.0, np.nan, np.inf
    points = camera_geometry.depth_to_points(depth, camera)
    assert points.dtype == np.float32
    assert np.isnan(points[[3, 5, 7], [4, 6, 8]]).all()
    assert np.isnan(points).any(axis=-1).sum() == 3
    assert_close(camera_geometry.project(points[20, 30].astype(np.float64), camera), np.array([30.0, 20.0]), atol=1e-3)
    lifted = camera_geometry.lift_points(np.array([[30.0, 20.0], [4.0, 3.0], [-5.0, 0.0], [np.nan, 1.0]]), depth, camera)
    assert_close(lifted[0], points[20, 30])
    assert np.isnan(lifted[1:]).all()


def test_normals_of_planes_are_exact_and_do_not_smear_over_a_step():
    camera = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
    rays = camera_geometry.depth_to_points(np.ones((48, 64)), camera)
    normal = np.array([0.3, -0.2, -0.9]) / np.linalg.norm([0.3, -0.2, -0.9])
    depth = -1.0 / (rays @ normal)
    depth[:, 40:] = 5.0
    depth[10, 10] = 0.0
    normals = normals_from_depth(depth, camera)
    assert np.isnan(normals[10, 10]).all()
    known = np.isfinite(normals).all(axis=-1)
    assert known.sum() == known.size - 1
    left, right = normals[:, :40][known[:, :40]], normals[:, 40:][known[:, 40:]]
    assert_close(left, np.broadcast_to(normal, left.shape).astype(np.float32), atol=1e-5)
    assert_close(right, np.broadcast_to([0.0, 0.0, -1.0], right.shape).astype(np.float32), atol=1e-5)
