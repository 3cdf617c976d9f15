import cv2
import numpy as np
import pytest
import torch
from tests.support.textured_plane import CAMERA, SIDE_M, random_texture, reference_views, render_plane, view_pose

from perception.core.errors import InputError
from perception.core.types import Camera, Frame, ReferenceView
from perception.geometry import se3, so3
from perception.geometry.camera import project, undistort_points
from perception.geometry.pnp import SolverConfig
from perception.ops.sift_keypoints import DIM, Keypoints, detect_keypoints, match_by_ratio
from perception.pipelines import keypoint_search, one_shot_pose
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.keypoint_search import FrameKeypoints, find_keypoints
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.object_keypoints import ObjectKeypoints, ViewKeypoints, joined, keypoints_of
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import AnyRollConfig, OneShotPose, OneShotPoseConfig

VIEWS = [view_pose(azimuth, elevation, 0.9) for azimuth in (-20, 20) for elevation in (-12, 12)]
BENT = Camera(320, 240, 300.0, 300.0, 159.5, 119.5, "plumb_bob", (-0.2, 0.05, 0.001, -0.001, 0.0))


@pytest.fixture(scope="module")
def square() -> ObjectKeypoints:
    views = [keypoints_of(view, 300).on_depth_image(view.frame.depth_m) for view in reference_views(random_texture(1), VIEWS)]
    found = joined(views)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def features() -> DenseFeatures:
    return DenseFeatures(DenseFeaturesConfig(extractor="dense_sift"))


@pytest.fixture(scope="module")
def database(features: DenseFeatures) -> ObjectDatabase:
    return build_database("square", reference_views(random_texture(1), VIEWS), features, OnboardingConfig())


def turn_deg(one: np.ndarray, other: np.ndarray) -> float:
    turn = one[:3, :3] @ other[:3, :3].T
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def test_keypoints_lie_on_the_mask_and_a_flat_picture_has_none() -> None:
    frame = render_plane(random_texture(1), view_pose(0, 0, 0.9))
    assert frame.mask is not None
    found = detect_keypoints(frame.image, frame.mask)
    cols, rows = np.rint(found.points_px).astype(int).T
    assert len(found) > 100
    assert frame.mask[rows, cols].all()
    torch.testing.assert_close(found.descriptors.norm(dim=1), torch.ones(len(found)))
    assert len(detect_keypoints(frame.image, frame.mask, max_keypoints=20)) <= 21  # OpenCV keeps ties
    assert len(detect_keypoints(np.full((60, 80, 3), 90, np.uint8))) == 0


def test_a_match_is_told_from_what_lies_elsewhere_only() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other, third = torch.nn.functional.normalize(torch.randn(3, DIM, generator=generator), dim=1)
    near_one = torch.nn.functional.normalize(one + 0.05 * other, dim=0)
    points = np.array([[0.0, 0, 0], [0.001, 0, 0], [0.5, 0, 0]])
    queries = torch.stack([near_one, third])
    same_place = match_by_ratio(queries[:1], torch.stack([one, near_one, third]), points, 0.85, apart_m=0.01)
    assert (same_place.query_index.tolist(), same_place.reference_index.tolist()) == ([0], [1])
    two_places = match_by_ratio(queries[:1], torch.stack([near_one, third, near_one]), points, 0.85, apart_m=0.01)
    assert len(two_places) == 0
    assert len(match_by_ratio(queries[:0], torch.stack([one, third]), points[:2], 0.85, 0.01)) == 0


@pytest.mark.parametrize("camera", [CAMERA, BENT], ids=["pinhole", "distorted"])
@pytest.mark.parametrize(("roll_deg", "distance_m"), [(0, 0.9), (90, 0.9), (180, 1.4), (-137, 0.7)])
def test_a_pose_is_found_at_any_roll_and_size(square: ObjectKeypoints, roll_deg: float, distance_m: float, camera: Camera) -> None:
    pose = view_pose(10, -5, distance_m, roll_deg)
    image = render_plane(random_texture(1), pose, background_seed=77).image
    if camera is BENT:
        at = np.stack(np.meshgrid(np.arange(320.0), np.arange(240.0)), axis=-1)
        where = undistort_points(at.reshape(-1, 2), camera).reshape(240, 320, 2).astype(np.float32)
        image = cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found = find_keypoints(square, FrameKeypoints(Frame(image, 1, camera)), SolverConfig())
    assert found
    assert turn_deg(found[0], pose) < 2
    assert np.linalg.norm(found[0][:3, 3] - pose[:3, 3]) < 0.02 * distance_m


def test_few_matches_that_agree_are_found_among_many_that_do_not() -> None:
    """Eight right ones among 300: of samples of three, one in 50,000 is right. The views from around an object leave turns like this one."""
    rng = np.random.default_rng(3)
    num, pose = 400, se3.from_rotation_translation(so3.exp(np.array([0.04, -0.06, 1.2])), np.array([0.05, -0.02, 0.9]))
    points, sizes = rng.uniform(-0.1, 0.1, (num, 3)), rng.uniform(0.005, 0.02, num)
    descriptors = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(num, DIM))).float(), dim=1)
    reference = ViewKeypoints(
        Keypoints(project(points + np.array([0, 0, 1.0]), CAMERA), sizes * 300 / (points[:, 2] + 1), np.zeros(num), descriptors),
        CAMERA,
        se3.from_rotation_translation(np.eye(3), np.array([0, 0, 1.0])),
    )
    known = reference.at_depths(points[:, 2] + 1)
    in_camera = se3.transform_points(pose, points)
    seen_px, angles = rng.uniform([0, 0], [319, 239], (300, 2)), rng.uniform(0, 2 * np.pi, 300)
    right = rng.permutation(300)[:8]
    seen_px[right] = project(in_camera[right], CAMERA)
    # The direction of a keypoint in the new picture: where a small step along its direction on the object goes.
    axis = np.swapaxes(known.upright_from_object.numpy(), 1, 2)[:, :, 0] * 1e-4
    step = project(se3.transform_points(pose, points + axis), CAMERA) - project(in_camera, CAMERA)
    angles[right] = np.arctan2(step[right, 1], step[right, 0])
    seen_sizes = rng.uniform(2, 20, 300)
    seen_sizes[right] = sizes[right] * 300 / in_camera[right, 2]
    frame = FrameKeypoints(Frame(np.zeros((240, 320, 3), np.uint8), 1, CAMERA))
    frame.__dict__["keypoints"] = Keypoints(seen_px, seen_sizes, angles, descriptors[:300])
    found = find_keypoints(known, frame, SolverConfig())
    assert found
    assert turn_deg(found[0], pose) < 1
    np.testing.assert_allclose(found[0][:3, 3], pose[:3, 3], atol=0.005)


def test_nothing_is_found_of_another_object_or_without_keypoints(square: ObjectKeypoints) -> None:
    other = render_plane(random_texture(7), view_pose(0, 0, 0.9), background_seed=77)
    assert find_keypoints(square, FrameKeypoints(Frame(other.image, 1, CAMERA)), SolverConfig()) == []
    assert find_keypoints(square, FrameKeypoints(Frame(np.zeros((240, 320, 3), np.uint8), 1, CAMERA)), SolverConfig()) == []


def test_keypoints_of_a_clip_without_depth_lie_on_the_surface(features: DenseFeatures) -> None:
    poses = [view_pose(azimuth, 3 * (azimuth % 7) - 9, 0.9) for azimuth in range(-20, 24, 4)]
    database = build_database("square", reference_views(random_texture(1), poses, with_depth=False), features, OnboardingConfig())
    assert database.keypoints is not None
    points = database.keypoints.points.numpy()
    assert len(points) > 500
    assert np.quantile(np.abs(points[:, 2]), 0.9) < 0.01
    assert (np.abs(points[:, :2]) < SIDE_M / 2 + 0.01).mean() > 0.95


def test_keypoints_need_a_camera() -> None:
    frame = render_plane(random_texture(1), view_pose(0, 0, 0.9))
    with pytest.raises(InputError, match="no camera intrinsics"):
        keypoints_of(ReferenceView(Frame(frame.image, 1, None, mask=frame.mask), np.eye(4)), 300)


def test_templates_are_not_looked_for_when_keypoints_say_it(
    features: DenseFeatures, database: ObjectDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = Frame(render_plane(random_texture(1), view_pose(10, -5, 0.9, 137), background_seed=77).image, 1, CAMERA)
    searched = []

    def counted(*args: object) -> list:
        searched.append(args)
        return []

    monkeypatch.setattr(one_shot_pose, "pyramid", counted)
    for num_guesses, num_searched in ((3, 0), (0, 1)):
        pipeline = OneShotPose(OneShotPoseConfig(any_roll=AnyRollConfig(num_keypoint_guesses=num_guesses)), features)
        pipeline.add_object(database)
        result = pipeline.step(frame)
        assert len(searched) == num_searched
        assert len(result.estimates) == 1 - num_searched


def test_a_frame_is_searched_for_keypoints_once_for_all_objects(
    features: DenseFeatures, database: ObjectDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(keypoint_search, "detect_keypoints", lambda *args: calls.append(args) or detect_keypoints(*args))
    pipeline = OneShotPose(OneShotPoseConfig(), features)
    for seed, name in ((5, "one"), (6, "two")):
        pipeline.add_object(build_database(name, reference_views(random_texture(seed), VIEWS[:1]), features, OnboardingConfig()))
    pipeline.step(Frame(render_plane(random_texture(1), view_pose(10, -5, 0.9, 137)).image, 1, CAMERA))
    assert len(calls) == 1
