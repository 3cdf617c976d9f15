from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from tests.support.textured_plane import CAMERA, random_texture, reference_views, render_plane, view_pose

from perception.core.types import Camera, Frame
from perception.geometry import se3
from perception.geometry.camera import project
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.object_keypoints import ObjectKeypoints
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import AnyRollConfig, OneShotPose, OneShotPoseConfig
from perception.pipelines.view_templates import Templates
from perception.pipelines.zoomed_view import zoomed_view

VIEWS = [view_pose(azimuth, elevation, 0.9) for azimuth in (-20, 20) for elevation in (-12, 12)]


@pytest.fixture(scope="module")
def features():
    return DenseFeatures(DenseFeaturesConfig(extractor="dense_sift"))


@pytest.fixture(scope="module")
def database(features):
    return build_database("square", reference_views(random_texture(1), VIEWS), features, OnboardingConfig())


def found_in(features, database, pose, texture_seed=1, config=None):
    pipeline = OneShotPose(config or OneShotPoseConfig(), features)
    pipeline.add_object(database)
    frame = render_plane(random_texture(texture_seed), pose, background_seed=77)
    return pipeline.step(Frame(frame.image, 1, CAMERA))


def error(estimated, true) -> tuple[float, float]:
    turn = estimated[:3, :3] @ true[:3, :3].T
    angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    return float(angle), float(np.linalg.norm(estimated[:3, 3] - true[:3, 3]) / true[2, 3])


@pytest.mark.parametrize("roll_deg", [0, 90, 137, 180])
def test_an_object_is_found_at_any_roll(features, database, roll_deg):
    pose = view_pose(10, -5, 0.9, roll_deg)
    result = found_in(features, database, pose)
    assert result.estimates, result.misses
    turn_deg, relative = error(result.estimates[0].camera_from_object, pose)
    assert turn_deg < 3
    assert relative < 0.03


def test_an_object_is_found_at_half_its_size_and_turned(features, database):
    pose = view_pose(5, 8, 1.8, 100)
    result = found_in(features, database, pose)
    assert result.estimates, result.misses
    turn_deg, relative = error(result.estimates[0].camera_from_object, pose)
    assert turn_deg < 6
    assert relative < 0.05
    found = result.estimates[0]
    expected_px = project(se3.transform_points(found.camera_from_object, found.inlier_points_object.astype(np.float64)), CAMERA)
    assert np.median(np.linalg.norm(expected_px - found.inlier_points_px, axis=1)) < 2


@pytest.mark.parametrize("roll_deg", [0, 137])
def test_another_object_is_not_taken_for_it_at_any_roll(features, database, roll_deg):
    assert not found_in(features, database, view_pose(0, 0, 0.9, roll_deg), texture_seed=7).estimates


def test_without_the_search_a_turned_object_is_missed(features, database):
    config = OneShotPoseConfig(any_roll=AnyRollConfig(enabled=False))
    assert not found_in(features, database, view_pose(10, -5, 0.9, 137), config=config).estimates


def test_a_turned_object_is_followed(features, database):
    pipeline = OneShotPose(OneShotPoseConfig(), features)
    pipeline.add_object(database)
    for step in range(3):
        pose = view_pose(10 + step, -5, 0.9, 137 + 2 * step)
        result = pipeline.step(Frame(render_plane(random_texture(1), pose, background_seed=77).image, 1 + step * 10**8, CAMERA))
        assert result.estimates, result.misses
        assert error(result.estimates[0].camera_from_object, pose)[0] < 3
    assert pipeline.features is features


@pytest.mark.parametrize("version", [4, 5])
def test_templates_and_keypoints_are_kept_with_the_database(database, tmp_path, version):
    """Version 4 had no keypoints."""
    assert database.keypoints is not None
    kept = database if version == 5 else replace(database, keypoints=None)
    path = kept.save(tmp_path / "square.safetensors")
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["version"] == str(version)
    read = ObjectDatabase.load(path)
    assert (read.keypoints is None) == (version == 4)
    for part in (Templates, ObjectKeypoints) if version == 5 else (Templates,):
        name = "templates" if part is Templates else "keypoints"
        for item in fields(part):
            np.testing.assert_array_equal(getattr(getattr(read, name), item.name), getattr(getattr(kept, name), item.name))


def test_no_rolls_make_neither_templates_nor_keypoints(features, tmp_path):
    views = reference_views(random_texture(1), VIEWS[:1])
    plain = build_database("square", views, features, OnboardingConfig(num_rolls=0))
    assert plain.templates is None
    assert plain.keypoints is None
    assert ObjectDatabase.load(plain.save(tmp_path / "plain.safetensors")).templates is None


@pytest.mark.parametrize("distortion", [(), (-0.2, 0.05, 0.001, -0.001, 0.0)])
def test_a_zoomed_view_shows_points_where_its_camera_sees_them(distortion):
    camera = Camera(320, 240, 300.0, 305.0, 158.0, 121.0, "plumb_bob" if distortion else "none", distortion)
    point = np.array([[0.12, -0.07, 0.8]])
    at = project(point, camera)[0]
    image = np.zeros((240, 320, 3), np.uint8)
    cv2.circle(image, tuple(np.rint(at).astype(int).tolist()), 3, (255, 255, 255), -1)
    zoomed = zoomed_view(Frame(image, 1, camera), np.array([200.0, 90.0]), 2.2, 700.0, (256, 256))
    seen = project(se3.transform_points(zoomed.zoomed_from_camera, point), zoomed.frame.camera)[0]
    rows, cols = np.nonzero(zoomed.frame.image[..., 0] > 128)
    np.testing.assert_allclose([cols.mean(), rows.mean()], seen, atol=2.0)
    np.testing.assert_allclose(zoomed.points_px(seen[None])[0], at, atol=0.02)
