"""The tracker on textures that move by known amounts, with an occluder; soft-argmax against its definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from perception.core.errors import InputError
from perception.core.types import Frame, Grid
from perception.ops.soft_argmax import cell_centres, soft_argmax
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.point_tracker import PointTracker, PointTrackerConfig, track_clip

POINTS = np.array([[60.0, 50.0], [90.0, 70.0], [100.0, 40.0], [70.0, 80.0]], np.float32)
CONFIG = PointTrackerConfig(temperature=0.02, radius_px=8.0)


def frames(shifts: list[tuple[int, int]]) -> list[Frame]:
    """Views of 170x130 px into one texture, each moved by (x, y) pixels."""
    noise = np.random.default_rng(4).standard_normal((200, 260, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    texture = np.clip(127 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return [Frame(np.ascontiguousarray(texture[30 + y : 160 + y, 40 + x : 210 + x]), time) for time, (x, y) in enumerate(shifts)]


@pytest.fixture(scope="module")
def features() -> DenseFeatures:
    return DenseFeatures(DenseFeaturesConfig(extractor="dense_sift", device="cpu", sift_size_px=6.0, stride_px=2))


def test_online_tracks_follow_the_motion_and_hide_behind_an_occluder(features: DenseFeatures) -> None:
    shifts = [(0, 0), (3, -2), (7, 5), (-9, 8)]
    views = frames(shifts)
    tracker = PointTracker(CONFIG, features)
    tracker.start(views[0], POINTS)
    assert tracker.num_points == 4
    for view, shift in zip(views, shifts, strict=True):
        tracks = tracker.step(view)
        assert tracks.visible.all()
        assert tracks.time_ns == view.time_ns
        assert np.abs(tracks.points_px - (POINTS - shift)).max() < 1.0
    covered = views[0].image.copy()
    covered[30:80, 40:82] = np.random.default_rng(0).integers(0, 256, (50, 42, 3), dtype=np.uint8)
    tracks = tracker.step(Frame(covered, 9))
    assert tracks.visible.tolist() == [False, True, True, True]
    tracker.reset()
    with pytest.raises(InputError, match="call start"):
        tracker.step(views[0])


def test_offline_and_online_agree_on_positions(features: DenseFeatures) -> None:
    views = frames([(0, 0), (4, 4), (-6, 3)])
    maps = [features.step(view) for view in views]
    queries = torch.from_numpy(np.column_stack([POINTS, np.zeros(4)])).float()
    clip = track_clip(torch.stack([each.descriptors for each in maps]), queries, maps[0].grid, CONFIG)
    assert not clip.occluded.any()
    tracker = PointTracker(CONFIG, features)
    tracker.start(views[0], POINTS)
    for index, view in enumerate(views):
        np.testing.assert_allclose(tracker.step(view).points_px, clip.points_px[:, index].numpy(), atol=1e-3)
    assert track_clip(torch.stack([maps[0].descriptors]), torch.zeros(0, 3), maps[0].grid, CONFIG).points_px.shape == (0, 1, 2)


def test_offline_occlusion(features: DenseFeatures) -> None:
    views = frames([(0, 0), (2, 1), (4, 2), (5, 5)])
    covered = views[2].image.copy()
    covered[10:90, 20:90] = np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)
    views[2] = Frame(covered, 2)
    maps = [features.step(view) for view in views]
    strict = PointTrackerConfig(temperature=0.02, radius_px=8.0, min_similarity=0.85, anchor_similarity=0.95)  # entries of SIFT are all positive
    queries = torch.tensor([[60.0, 50.0, 0.0], [130.0, 50.0, 0.0]])
    clip = track_clip(torch.stack([each.descriptors for each in maps]), queries, maps[0].grid, strict)
    assert clip.occluded[:, 2].tolist() == [True, False]
    assert not clip.occluded[:, [0, 1, 3]].any()


def test_soft_argmax_is_the_published_definition() -> None:
    """Softmax over everything, cut to a disc, renormalised; batch dimensions (), (2,), (1, 2)."""
    grid = Grid((3.0, 5.0), (4.0, 6.0))
    similarity = torch.rand(1, 2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for batch in (similarity[0, 0], similarity[0], similarity):
        points = soft_argmax(batch, grid, radius_px=13.0, temperature=0.3)
        assert points.shape == (*batch.shape[:-2], 2)
    for index in range(2):
        whole = torch.softmax(similarity[0, index].flatten() / 0.3, 0)
        centres = cell_centres(9, 7, grid, whole)
        near = (centres - centres[whole.argmax()]).norm(dim=1) <= 13.0
        expected = (whole[near, None] * centres[near]).sum(0) / whole[near].sum()
        torch.testing.assert_close(points[0, index], expected)


def test_start_refuses_points_outside(features: DenseFeatures) -> None:
    tracker = PointTracker(CONFIG, features)
    view = frames([(0, 0)])[0]
    with pytest.raises(InputError, match=r"point to track \[170.0, 3.0\]: must lie in the 170x130 image"):
        tracker.start(view, np.array([[5.0, 5.0], [170.0, 3.0]]))
    with pytest.raises(InputError, match=r"must be \(num, 2\), at least one, and finite"):
        tracker.start(view, np.zeros((3,)))
    with pytest.raises(InputError, match=r"frames in \[0, 1\)"):
        track_clip(torch.zeros(1, 2, 3, 3), torch.tensor([[0.0, 0.0, 1.0]]), Grid((0, 0), (1, 1)), CONFIG)
