"""Trajectories of query pixels in procedural scenes are exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.support.procedural_scene import procedural_room
from tests.training.synthetic.test_scene_rendering import surface_gap
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.synthetic.scenes.render import Rendering, render
from perception_training.data.synthetic.scenes.scene import SceneBatch
from perception_training.data.synthetic.scenes.trajectories import Trajectories, trajectories

SCENE_SIZE_M = 6.0
NUM_QUERIES = 1500


@pytest.fixture(scope="module")
def room() -> SceneBatch:
    return procedural_room(num_clips=2, num_frames=5, seed=1)


@pytest.fixture(scope="module")
def queries(room: SceneBatch) -> Tensor:
    random = torch.Generator().manual_seed(2)
    height, width = room.image_size
    place = torch.rand(2, NUM_QUERIES, 2, generator=random, dtype=torch.float64) * torch.tensor([width - 1, height - 1])
    return torch.cat([torch.randint(0, room.num_frames, (2, NUM_QUERIES, 1), generator=random).double(), place], 2)


@pytest.fixture(scope="module")
def tracks(room: SceneBatch, queries: Tensor) -> Trajectories:
    return trajectories(room, queries)


@pytest.fixture(scope="module")
def rendering(room: SceneBatch) -> Rendering:
    return render(room, images=False)


def at_query(values: Tensor, queries: Tensor) -> Tensor:
    """(B, T, N, ...) → (B, N, ...) in the frame of each query."""
    clip, point = torch.arange(len(queries))[:, None], torch.arange(queries.shape[1])[None]
    return values[clip, queries[..., 0].long(), point]


def test_a_query_is_found_again_where_it_was_put_and_is_visible(tracks, queries):
    assert (at_query(tracks.points_px, queries) - queries[..., 1:]).abs().max() < 1e-9
    assert at_query(tracks.visible, queries).all()


def test_static_points_rest_in_the_world_and_reproject_from_rendered_depth_to_a_hundredth_of_a_pixel(room, rendering):
    height, width = room.image_size
    row, column = torch.meshgrid(torch.arange(0, height, 3), torch.arange(0, width, 3), indexing="ij")
    queries = torch.stack([torch.full_like(row, 1), column, row], -1).flatten(0, 1)[None].expand(2, -1, -1)
    tracks = trajectories(room, queries)
    static = ~rendering.truth.dynamic[:, 1, ::3, ::3].flatten(1) & (tracks.primitive == rendering.truth.primitive[:, 1, ::3, ::3].flatten(1))
    assert (tracks.points_world - tracks.points_world[:, :1]).abs().amax((1, 3))[static].max() < 1e-12
    depth = rendering.truth.depth[:, 1, ::3, ::3].flatten(1).double()
    slopes = (queries[..., 1:] - room.intrinsics[:, 1, None, 2:]) / room.intrinsics[:, 1, None, :2]
    camera = torch.cat([slopes, torch.ones_like(slopes[..., :1])], -1) * depth[..., None]
    pose = room.world_from_camera[:, 1, None]
    world = (pose[..., :3, :3] @ camera[..., None])[..., 0] + pose[..., :3, 3]
    for frame in range(room.num_frames):
        into = torch.linalg.inv(room.world_from_camera[:, frame, None])
        seen = (into[..., :3, :3] @ world[..., None])[..., 0] + into[..., :3, 3]
        pixels = seen[..., :2] / seen[..., 2:] * room.intrinsics[:, frame, None, :2] + room.intrinsics[:, frame, None, 2:]
        use = static & (seen[..., 2] > 0.1)
        assert use.double().mean() > 0.3
        assert (pixels - tracks.points_px[:, frame])[use].norm(dim=-1).max() < 0.01


def test_points_stay_on_the_surface_that_carries_them(room, tracks):
    carried = tracks.primitive[:, None].expand(-1, room.num_frames, -1)
    assert room.is_dynamic.gather(1, tracks.primitive).double().mean() > 0.1
    assert surface_gap(room, tracks.points_world, carried).max() < 1e-10 < 1e-4 * SCENE_SIZE_M


def test_distances_within_a_moving_body_do_not_change(room, tracks):
    moving = room.is_dynamic.gather(1, tracks.primitive)
    for clip in range(2):
        for member in tracks.primitive[clip][moving[clip]].unique().tolist():
            points = tracks.points_world[clip][:, tracks.primitive[clip] == member]
            between = (points[:, :, None] - points[:, None]).norm(dim=-1)
            torch.testing.assert_close(between, between[:1].expand_as(between), atol=1e-12, rtol=0)
            assert (points - points[:1]).norm(dim=-1).max() > 1e-3 or points.shape[1] == 0


def test_occlusion_agrees_with_the_depth_of_a_ray_at_the_projected_position(room, tracks):
    height, width = room.image_size
    for frame in range(room.num_frames):
        place, depth = tracks.points_px[:, frame], tracks.points_camera[:, frame, :, 2]
        inside = ((place >= -0.5) & (place <= torch.tensor([width - 0.5, height - 0.5]))).all(-1)
        assert not tracks.visible[:, frame][~inside].any()
        rays = torch.cat([torch.full_like(depth, frame)[..., None], place.nan_to_num()], -1)
        first = trajectories(room.at_frames([frame]), rays * torch.tensor([0.0, 1, 1])).points_camera[:, 0, :, 2]
        expected = inside & (first > depth - 1e-5)
        assert torch.equal(tracks.visible[:, frame], expected)
    assert 0.3 < tracks.visible.double().mean() < 0.95


def test_occlusion_agrees_with_rendered_depth(room, tracks, rendering):
    """Only where the depth around is smooth: a rendered pixel is another ray than that to the point."""
    height, width = room.image_size
    column, row = (tracks.points_px[..., axis].round().nan_to_num(-1).long() for axis in (0, 1))
    inside = (column > 0) & (row > 0) & (column < width - 1) & (row < height - 1)
    clip, frame = torch.arange(2)[:, None, None], torch.arange(room.num_frames)[None, :, None]
    column, row = column.clamp(1, width - 2), row.clamp(1, height - 2)
    around = torch.stack([rendering.truth.depth[clip, frame, row + dy, column + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    near, far, depth = around.amin(0), around.amax(0), tracks.points_camera[..., 2]
    smooth = inside & ((far - near) < 0.05 * near)
    shown, hidden = smooth & (depth <= far), smooth & (depth > far * 1.02)
    assert shown.sum() > 100
    assert hidden.sum() > 100
    assert tracks.visible[shown].double().mean() > 0.995
    assert not tracks.visible[hidden].any()


def test_a_batch_is_its_clips_one_by_one(room, queries, tracks):
    for clip in range(2):
        alone = trajectories(room.at_clips([clip]), queries[clip : clip + 1])
        assert torch.equal(alone.visible[0], tracks.visible[clip])
        torch.testing.assert_close(alone.points_world[0], tracks.points_world[clip], atol=1e-12, rtol=0)


def test_a_query_into_the_sky_has_no_trajectory(room):
    empty = replace(room, kind=torch.zeros_like(room.kind))
    nothing = trajectories(empty, torch.tensor([[[0.0, 5, 5]], [[1.0, 9, 9]]]))
    assert nothing.primitive.tolist() == [[-1], [-1]]
    assert not nothing.visible.any()
    assert nothing.points_world.isnan().all()
    assert nothing.points_px.isnan().all()


def test_wrong_queries_are_refused(room):
    with pytest.raises(InputError, match=r"query frames lie in \[0, 5\]: must lie in \[0, 4\]"):
        trajectories(room, torch.tensor([[[0.0, 1, 1]], [[5.0, 1, 1]]]))
    with pytest.raises(InputError, match="query pixels have shape"):
        trajectories(room, torch.zeros(1, 4, 3))
