"""Overlays: drawn where the geometry says, whole at any pose, never on the given image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perception.core.types import Camera, PoseEstimate, TrackSet
from perception.geometry import so3
from perception.geometry.camera import project
from perception.geometry.se3 import transform_points
from perception.viz.overlays import draw_box, draw_matches, draw_message, draw_pose, draw_tracks

CAMERA = Camera(320, 240, 260.0, 260.0, 159.5, 119.5)
GREY_IMAGE = np.full((240, 320, 3), 128, np.uint8)


def estimate(translation_m: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> PoseEstimate:
    camera_from_object = np.eye(4)
    camera_from_object[:3, :3] = so3.exp(np.array([0.4, 0.6, 0.1]))
    camera_from_object[:3, 3] = translation_m
    points_object = np.random.default_rng(0).uniform(-0.1, 0.1, (12, 3))
    points_px = project(transform_points(camera_from_object, points_object), CAMERA) if translation_m[2] > 0.5 else np.full((12, 2), np.nan)
    bounds = np.array([[-0.1] * 3, [0.1] * 3], np.float32)
    return PoseEstimate(
        "mug", camera_from_object, np.eye(6), 0.8, 20, 12, 1.0, points_px.astype(np.float32), points_object.astype(np.float32), bounds
    )


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def test_pose_is_drawn_on_a_copy_where_the_box_projects() -> None:
    before = GREY_IMAGE.copy()
    drawn = draw_pose(before, estimate(), CAMERA, color=(255, 0, 0), label=False)
    assert (before == GREY_IMAGE).all()
    rows, columns = np.nonzero(changed(before, drawn))
    corners = np.array([[x, y, z] for x in (-0.1, 0.1) for y in (-0.1, 0.1) for z in (-0.1, 0.1)])
    corners_px = project(transform_points(estimate().camera_from_object, corners), CAMERA)
    np.testing.assert_allclose([columns.min(), rows.min()], corners_px.min(axis=0), atol=3)
    np.testing.assert_allclose([columns.max(), rows.max()], corners_px.max(axis=0), atol=3)


@pytest.mark.parametrize("translation_m", [(0.0, 0.0, 0.0), (0.0, 0.0, -2.0), (0.0, 0.0, 0.05), (1e6, 0.0, 1e-3), (5.0, 5.0, 0.2)])
@pytest.mark.parametrize(
    "camera",
    [
        CAMERA,
        replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.4, 0.2, 0.0, 0.0)),
        replace(CAMERA, distortion_model="equidistant", distortion=(0.0,) * 4),
    ],
)
def test_any_pose_can_be_drawn(translation_m: tuple[float, float, float], camera: Camera) -> None:
    assert draw_pose(GREY_IMAGE, estimate(translation_m), camera).shape == GREY_IMAGE.shape


def test_nothing_of_a_box_behind_the_camera_is_drawn() -> None:
    drawn = draw_pose(GREY_IMAGE, estimate((0.0, 0.0, -2.0)), CAMERA, label=False)
    assert not changed(GREY_IMAGE, drawn).any()


def test_edge_through_the_camera_plane_is_cut_at_it() -> None:
    """A long box beside the camera, from behind it to far ahead: its edges run to the image border, not across the image."""
    bounds = np.array([[0.3, 0.3, -5.0], [0.5, 0.5, 5.0]], np.float32)
    mask = changed(GREY_IMAGE, draw_box(GREY_IMAGE, np.eye(4), bounds, CAMERA))
    assert mask[:, -2:].any() or mask[-2:].any()
    assert not mask[:118].any()
    assert not mask[:, :158].any()


def test_folded_lens_distortion_does_not_bring_far_corners_into_the_image() -> None:
    camera = replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.4, 0.0, 0.0, 0.0))
    bounds = np.array([[1.7, -0.01, 0.99], [1.75, 0.01, 1.01]], np.float32)
    assert 0 <= float(project(np.array([1.7, 0.0, 1.0]), camera)[0]) < 160  # the polynomial folds it to the other side
    assert not changed(GREY_IMAGE, draw_box(GREY_IMAGE, np.eye(4), bounds, camera)).any()


def test_matches_side_by_side_with_images_of_unequal_height() -> None:
    small = np.zeros((100, 80, 3), np.uint8)
    points = np.random.default_rng(1).uniform(5, 75, (50, 2))
    drawn = draw_matches(GREY_IMAGE, small, points, points, inliers=np.arange(50) % 2 == 0, max_matches=10)
    assert drawn.shape == (240, 400, 3)
    assert draw_matches(GREY_IMAGE, small, np.zeros((0, 2)), np.zeros((0, 2)))[:, :320].tolist() == GREY_IMAGE.tolist()


def test_invisible_tracks_are_hollow() -> None:
    points = np.array([[50.0, 60.0], [200.0, 60.0]], np.float32)
    tracks = TrackSet(np.arange(2), points, np.array([True, False]), np.ones(2, np.float32), 1)
    mask = changed(GREY_IMAGE, draw_tracks(GREY_IMAGE, tracks, [tracks]))
    assert mask[60, 50]
    assert not mask[60, 200]
    assert mask[50:70, 190:210].any()


@pytest.mark.parametrize("text", ["", "no pose: 3 inliers, 6 are needed", "word " * 200, "x" * 500, "Tasse → größer"])
@pytest.mark.parametrize("size", [(240, 320), (12, 16)])
def test_message_fits_any_image(text: str, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    drawn = draw_message(image, text)
    assert drawn.shape == image.shape
    assert changed(image, drawn).any()
