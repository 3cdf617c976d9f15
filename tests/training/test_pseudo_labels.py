"""Point trackers against exact truth, and what holds for any weights."""

import dataclasses
import functools
import sys

import numpy as np
import pytest
import torch
from tests.support.miniatures.scene import miniature_scene
from tests.support.textured_plane import CAMERA, random_texture, render_plane, view_pose

from perception.core.errors import ConfigError, InputError, MissingDependencyError, WeightsError
from perception.geometry import se3
from perception.geometry.camera import project
from perception.models.cotracker3 import OFFLINE, ONLINE, CoTracker3
from perception_training.data.pseudo_labels import TRACKERS, create_tracker
from perception_training.data.pseudo_labels.cotracker3 import CoTracker3Offline, CoTracker3Online, CoTracker3TrackerConfig
from perception_training.data.pseudo_labels.lucas_kanade import LucasKanadeConfig
from perception_training.data.pseudo_labels.raft import FlowTracker, RaftConfig
from perception_training.data.pseudo_labels.tracker import grid_queries

SMALL = dict(
    feature_dim=16, correlation_hidden_dim=12, correlation_dim=8, hidden_dim=24, num_heads=2, num_virtual_tracks=4, height_px=64, width_px=96
)


@functools.cache
def plane_clip(num_frames=16):
    """Images of a textured plane under a camera that turns, tilts and comes nearer, points on it (T, N, 2) and homographies (T, 3, 3)."""
    texture, angles = random_texture(3), np.linspace(0, 1.5, num_frames)
    poses = [view_pose(20 * np.sin(a), 15 * np.cos(a), 0.6 + 0.1 * np.sin(2 * a), 10 * a) for a in angles]
    images = np.stack([render_plane(texture, pose).image for pose in poses])
    surface = np.stack(np.meshgrid(np.linspace(-0.15, 0.15, 9), np.linspace(-0.15, 0.15, 9)), -1).reshape(-1, 2)
    surface = np.insert(surface, 2, 0, axis=1)
    truth = np.stack([project(se3.transform_points(pose, surface), CAMERA) for pose in poses])
    return images, truth, np.stack([CAMERA.matrix @ pose[:3][:, [0, 1, 3]] for pose in poses])


def queries_at(truth, frames):
    frames = np.broadcast_to(frames, truth.shape[1])
    return np.column_stack([frames, truth[frames, np.arange(truth.shape[1])]])


def errors_px(tracks, truth):
    return np.linalg.norm(tracks.points_px - truth, axis=2)


def small_network(variant, window_frames):
    torch.manual_seed(2)
    return CoTracker3(dataclasses.replace(variant, **SMALL, window_frames=window_frames))


def cotracker(kind, window_frames=8, **settings):
    variant = ONLINE if kind is CoTracker3Online else OFFLINE
    return kind(CoTracker3TrackerConfig(num_iterations=2, device="cpu", **settings), small_network(variant, window_frames))


def test_lucas_kanade_follows_a_plane_both_ways_to_a_tenth_of_a_pixel():
    images, truth, _ = plane_clip()
    frames = np.arange(truth.shape[1]) % 16
    tracks = create_tracker("lucas_kanade").track(images, queries_at(truth, frames))
    errors = errors_px(tracks, truth)
    assert tracks.visible.mean() > 0.98
    assert np.median(errors[tracks.visible]) < 0.1
    assert np.percentile(errors[tracks.visible], 95) < 0.5
    assert np.array_equal(tracks.query_frames, frames)


def test_the_alignment_with_the_query_frame_stops_the_drift():
    images, truth, _ = plane_clip()
    asked = queries_at(truth, 0)
    medians = [
        np.nanmedian(errors_px(create_tracker("lucas_kanade", LucasKanadeConfig(refine_iterations=steps)).track(images, asked), truth)[-1])
        for steps in (0, 10)
    ]
    assert medians[1] < 0.3 * medians[0]


def test_lucas_kanade_on_rendered_surfaces_stays_within_half_a_pixel_and_flags_what_is_hidden():
    scene = miniature_scene(12, 320, 240)
    shown = scene.visible[0]
    truth, visible = scene.points_px[:, shown], scene.visible[:, shown]
    tracks = create_tracker("lucas_kanade").track(scene.images, queries_at(truth, 0))
    errors = errors_px(tracks, truth)
    assert np.median(errors[tracks.visible & visible]) < 0.2
    assert tracks.visible[visible].mean() > 0.7
    assert (~visible).sum() > 50
    assert tracks.visible[~visible].mean() < 0.05


def test_points_behind_an_object_that_passes_are_flagged():
    images, truth, _ = plane_clip()
    images, hidden = images.copy(), np.zeros(truth.shape[:2], bool)
    for frame, image in enumerate(images):
        left, top = 20 + 14 * frame, 90
        image[top : top + 60, left : left + 60] = random_texture(77)[:60, :60]
        hidden[frame] = ((truth[frame] > (left - 0.5, top - 0.5)) & (truth[frame] < (left + 59.5, top + 59.5))).all(1)
    asked = ~hidden[0]
    tracks = create_tracker("lucas_kanade").track(images, queries_at(truth, 0)[asked])
    assert hidden[:, asked].sum() > 50
    assert tracks.visible[hidden[:, asked]].mean() < 0.05
    assert tracks.visible[~hidden[:, asked]].mean() > 0.7
    assert np.isnan(tracks.points_px[~tracks.visible]).all()


def test_points_that_leave_the_image_are_lost():
    texture = random_texture(5, 400)
    images = [np.ascontiguousarray(texture[100:220, 8 * frame : 8 * frame + 160]) for frame in range(10)]
    tracks = create_tracker("lucas_kanade").track(images, np.array([[0, 40.0, 60.0], [0, 120.0, 60.0]]))
    assert tracks.visible[:5, 0].all()  # at x = 0 in frame 5, on the border
    assert not tracks.visible[6:, 0].any()
    assert tracks.visible[:, 1].all()
    np.testing.assert_allclose(tracks.points_px[:, 1], [(120 - 8 * frame, 60) for frame in range(10)], atol=0.05)


@pytest.mark.parametrize("at", [0, 7, 15])
def test_any_flow_function_is_chained_from_the_query_frame_both_ways(at):
    images, truth, homographies = plane_clip()
    names = {image.tobytes(): frame for frame, image in enumerate(images)}

    def exact_flow(first, second):
        second_from_first = homographies[names[second.tobytes()]] @ np.linalg.inv(homographies[names[first.tobytes()]])
        pixels = np.stack([*np.meshgrid(np.arange(320.0), np.arange(240.0)), np.ones((240, 320))], -1)
        moved = pixels @ second_from_first.T
        return (moved[..., :2] / moved[..., 2:] - pixels[..., :2]).astype(np.float32)

    tracks = FlowTracker(exact_flow, RaftConfig()).track(images, queries_at(truth, at)[::9])
    assert tracks.visible.all()
    assert errors_px(tracks, truth[:, ::9]).max() < 0.02


def test_flow_whose_way_back_leads_elsewhere_loses_the_point():
    images = np.zeros((4, 40, 60, 3), np.uint8)
    images[..., 0] = np.arange(4)[:, None, None]

    def flow(first, second):
        field = np.zeros((40, 60, 2), np.float32)
        forwards = second[0, 0, 0] > first[0, 0, 0]
        field[..., 0] = 5 if forwards else -5
        field[:20, :, 1] = 3  # not undone on the way back
        return field

    tracks = FlowTracker(flow, RaftConfig()).track(images, np.array([[0, 10, 30], [0, 10, 10]]))
    assert tracks.visible.tolist() == [[True, True], [True, False], [True, False], [True, False]]
    np.testing.assert_allclose(tracks.points_px[:, 0], [(10, 30), (15, 30), (20, 30), (25, 30)])


def test_raft_without_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingDependencyError, match="pip install torchvision"):
        create_tracker("raft")


@pytest.mark.parametrize("kind", [CoTracker3Offline, CoTracker3Online])
@pytest.mark.parametrize("support_grid", [0, 3])
def test_cotracker_returns_the_queries_as_asked_and_no_support_points(kind, support_grid):
    images = plane_clip()[0][:11]
    asked = np.array([[0, 10.25, 20.5], [4, 300, 200], [10, 0, 0], [10, 319, 239]], np.float32)
    tracks = cotracker(kind, support_grid=support_grid).track(images, asked)
    assert tracks.points_px.shape == (11, 4, 2)
    assert np.isfinite(tracks.points_px).all()
    rows = asked[:, 0].astype(int), np.arange(4)
    assert np.array_equal(tracks.points_px[rows], asked[:, 1:])
    assert tracks.visible[rows].all()


@pytest.mark.parametrize("kind", [CoTracker3Offline, CoTracker3Online])
@pytest.mark.parametrize("max_frames", [4, 100])
def test_cotracker_backwards_is_forwards_in_the_reversed_clip(kind, max_frames):
    images = plane_clip()[0][:13]
    points = np.random.default_rng(0).uniform(20, 200, (5, 2))
    tracker = cotracker(kind, support_grid=0, max_frames_at_once=max_frames)
    forwards = tracker.track(images[::-1], np.insert(points, 0, 0, axis=1))
    backwards = tracker.track(images, np.insert(points, 0, 12, axis=1))
    np.testing.assert_allclose(backwards.points_px, forwards.points_px[::-1], atol=1e-3)
    assert (backwards.visible == forwards.visible[::-1]).mean() > 0.99


@pytest.mark.parametrize("kind", [CoTracker3Offline, CoTracker3Online])
def test_cotracker_in_windows_knows_nothing_before_a_query_without_the_backward_pass(kind):
    tracker = cotracker(kind, backward_pass=False, max_frames_at_once=4)
    tracks = tracker.track(plane_clip()[0], np.array([[0, 50, 60], [9, 50, 60]]))
    assert np.isfinite(tracks.points_px[:, 0]).all()
    assert np.isnan(tracks.points_px[:9, 1]).all()
    assert not tracks.visible[:9, 1].any()
    assert np.isfinite(tracks.points_px[9:, 1]).all()


def test_long_clips_go_through_the_offline_network_in_windows():
    images, asked = plane_clip()[0][:8], np.array([[0, 50, 60], [0, 100, 90]])
    whole = cotracker(CoTracker3Offline, max_frames_at_once=8).track(images, asked)
    windowed = cotracker(CoTracker3Offline, max_frames_at_once=7).track(images, asked)
    np.testing.assert_allclose(windowed.points_px, whole.points_px, atol=1e-3)  # a window of 8 frames holds all
    longer = cotracker(CoTracker3Offline, max_frames_at_once=7).track(plane_clip()[0], asked)
    assert longer.points_px.shape == (16, 2, 2)


def test_many_points_go_through_in_groups():
    images, asked = plane_clip()[0][:6], np.insert(np.random.default_rng(0).uniform(5, 230, (7, 2)), 0, 0, axis=1)
    grouped = cotracker(CoTracker3Online, max_points_at_once=3).track(images, asked)
    alone = cotracker(CoTracker3Online).track(images, asked[3:6])
    np.testing.assert_allclose(grouped.points_px[:, 3:6], alone.points_px, atol=1e-3)


def test_cotracker_reports_progress_up_to_the_end():
    for kind in (CoTracker3Offline, CoTracker3Online):
        seen = []
        cotracker(kind).track(plane_clip()[0], np.array([[0, 5, 5], [15, 5, 5]]), lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("name", ["cotracker3_offline", "cotracker3_online"])
def test_cotracker_without_weights_says_which_file_it_needs(name):
    with pytest.raises(WeightsError, match=f"scaled_{name.partition('_')[2]}.pth"):
        create_tracker(name)


def test_trackers_are_found_by_name():
    with pytest.raises(ConfigError, match="known: cotracker3_offline, cotracker3_online, lucas_kanade, raft"):
        create_tracker("lukas")
    with pytest.raises(ConfigError, match="config is RaftConfig: must be LucasKanadeConfig"):
        create_tracker("lucas_kanade", RaftConfig())
    assert set(TRACKERS) == {"cotracker3_offline", "cotracker3_online", "lucas_kanade", "raft"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (np.zeros((0, 3)), "must be"),
        (np.zeros((2, 2)), r"must be \(points, 3\)"),
        ([[3, 1, 1]], r"must be whole numbers in \[0, 3\)"),
        ([[0.5, 1, 1]], "whole numbers"),
        ([[0, 31.6, 1]], r"\(31.6, 1\) lies outside of the 32x24 image"),
        ([[0, np.nan, 1]], "must be"),
    ],
)
def test_queries_outside_of_the_clip_are_refused(asked, message):
    with pytest.raises(InputError, match=message):
        create_tracker("lucas_kanade").track(np.zeros((3, 24, 32, 3), np.uint8), np.asarray(asked))


def test_frames_of_another_size_are_refused_by_number():
    images = [np.zeros((24, 32, 3), np.uint8)] * 2 + [np.zeros((24, 30, 3), np.uint8)]
    with pytest.raises(InputError, match="frame 2 is 30x24, the first one is 32x24"):
        create_tracker("lucas_kanade").track(images, np.array([[0, 5, 5]]))
    with pytest.raises(InputError, match="without frames"):
        create_tracker("lucas_kanade").track([], np.array([[0, 5, 5]]))


def test_the_grid_lies_in_the_middle_of_its_cells():
    assert grid_queries((4, 8), 5, 2).tolist() == [[0, 1.5, 0.5], [0, 5.5, 0.5], [0, 1.5, 2.5], [0, 5.5, 2.5]]
    assert grid_queries((4, 8), 5, 1, every=2)[:, 0].tolist() == [0, 2, 4]
