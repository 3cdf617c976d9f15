"""PnP on analytic scenes: outliers, distortion, covariance, degenerate input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import assert_close
from tests.support.scenes import CAMERAS, correspondences, pose_error

from perception.core.errors import InputError
from perception.geometry import camera as camera_geometry
from perception.geometry import se3
from perception.geometry.pnp import SolverConfig, solve_pnp

METHODS = ["poselib", "opencv_epnp"]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), model=st.sampled_from(sorted(CAMERAS)), inlier_share=st.sampled_from([0.3, 0.6, 1.0]))
def test_the_pose_is_found_among_outliers(seed, model, inlier_share):
    scene = correspondences(CAMERAS[model], 400, inlier_share, 1.0, seed)
    found = solve_pnp(scene.points_px, scene.points_object, CAMERAS[model], SolverConfig())
    assert found is not None
    rotation_deg, translation_m = pose_error(found.camera_from_object, scene.camera_from_object)
    assert rotation_deg < 1.0
    assert translation_m < 0.01
    assert (found.inliers & scene.is_inlier).sum() > 0.95 * scene.is_inlier.sum()


@pytest.mark.parametrize("method", METHODS)
def test_exact_matches_give_the_exact_pose_and_equal_input_equal_output(method):
    camera, config = CAMERAS["plumb_bob"], SolverConfig(method=method)
    scene = correspondences(camera, 200, 0.6, 0.0, 3)
    found = solve_pnp(scene.points_px, scene.points_object, camera, config)
    assert_close(found.camera_from_object, scene.camera_from_object, atol=1e-5)
    again = solve_pnp(scene.points_px, scene.points_object, camera, config)
    assert (found.camera_from_object == again.camera_from_object).all()
    assert (found.inliers == again.inliers).all()
    scored = solve_pnp(scene.points_px, scene.points_object, camera, config, score=scene.is_inlier.astype(float))
    assert_close(scored.camera_from_object, scene.camera_from_object, atol=1e-5)


def test_the_covariance_describes_the_spread_of_the_poses():
    """Whitened by their own covariance, the errors of many solutions have unit variance in each direction."""
    camera, config = CAMERAS["none"], SolverConfig(robust_scale_px=50.0, min_sigma_px=0.1)
    clean, rng = correspondences(camera, 60, 1.0, 0.0, 0), np.random.default_rng(0)
    whitened = []
    for _ in range(120):
        found = solve_pnp(clean.points_px + rng.normal(size=(60, 2)), clean.points_object, camera, config)
        error = se3.log(found.camera_from_object @ se3.inverse(clean.camera_from_object))
        whitened.append(np.linalg.solve(np.linalg.cholesky(found.covariance), error))
    assert_close(np.var(whitened, axis=0), np.ones(6), atol=0.45)
    assert np.mean(np.square(whitened)) == pytest.approx(1.0, abs=0.2)


def test_the_covariance_has_a_floor():
    scene = correspondences(CAMERAS["none"], 100, 1.0, 0.0, 1)
    small, large = (solve_pnp(scene.points_px, scene.points_object, CAMERAS["none"], SolverConfig(min_sigma_px=s)).covariance for s in (0.5, 2.0))
    assert_close(16 * small, large, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_determines_no_pose_gives_none(method):
    camera, config = CAMERAS["none"], SolverConfig(method=method)
    scene = correspondences(camera, 100, 1.0, 0.0, 2)
    line = np.linspace(0, 1, 100)[:, None] * np.array([0.1, 0.05, 0.02])
    on_line = camera_geometry.project(se3.transform_points(scene.camera_from_object, line), camera)
    nothing = np.full((100, 2), np.nan)
    for pixels, points in ((on_line, line), (nothing, scene.points_object), (scene.points_px, np.zeros((100, 3)))):
        assert solve_pnp(pixels, points, camera, config) is None
    for num in (0, 1, 3, 5):
        assert solve_pnp(scene.points_px[:num], scene.points_object[:num], camera, config) is None
    noise = correspondences(camera, 60, 0.0, 0.0, 4)
    assert solve_pnp(noise.points_px, noise.points_object, camera, SolverConfig(method=method, min_inliers=20, max_iterations=500)) is None


def test_rows_with_nan_are_outliers():
    scene = correspondences(CAMERAS["none"], 100, 1.0, 0.0, 5)
    scene.points_px[0], scene.points_object[1] = np.nan, np.inf
    found = solve_pnp(scene.points_px, scene.points_object, CAMERAS["none"], SolverConfig())
    assert found.inliers.tolist() == [False, False] + [True] * 98
    assert found.reprojection_rms_px < 1e-6


def test_wrong_shapes_are_named():
    with pytest.raises(InputError, match=r"points_px has shape \(5, 3\)"):
        solve_pnp(np.zeros((5, 3)), np.zeros((5, 3)), CAMERAS["none"], SolverConfig())
    with pytest.raises(InputError, match=r"points_object has shape \(4, 3\)"):
        solve_pnp(np.zeros((5, 2)), np.zeros((4, 3)), CAMERAS["none"], SolverConfig())
    with pytest.raises(InputError, match="score"):
        solve_pnp(np.zeros((5, 2)), np.zeros((5, 3)), CAMERAS["none"], SolverConfig(), score=np.zeros(4))
