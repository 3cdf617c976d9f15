"""Edges of depth and of surfaces, normals of point maps, point maps in the world."""

import numpy as np
import pytest
import torch

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.depth_edges import depth_and_normal_edges, depth_edges, normal_edges, normals_of_point_map
from perception.geometry.point_maps import points_in_world

HEIGHT, WIDTH = 11, 14


def rays():
    row, column = torch.meshgrid(torch.arange(HEIGHT, dtype=torch.float64), torch.arange(WIDTH, dtype=torch.float64), indexing="ij")
    return torch.stack([(column - 6.5) / 20, (row - 5) / 20, torch.ones_like(row)], dim=-1)


def plane(normal, distance):
    """Point map of the plane of all points with normal . point = distance."""
    ray = rays()
    return ray * (distance / (ray @ torch.tensor(normal, dtype=torch.float64)))[..., None]


def two_planes():
    """A wall at depth 2, from column 7 on another at depth 3."""
    return torch.where(torch.arange(WIDTH)[:, None] < 7, plane((0, 0, 1), 2.0), plane((0, 0, 1), 3.0))


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_step_of_depth_marks_the_pixels_on_both_its_sides(batch):
    depth = two_planes()[..., 2].expand(*batch, HEIGHT, WIDTH)
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[:, 6:8] = True
    assert torch.equal(depth_edges(depth), expected.expand(*batch, HEIGHT, WIDTH))
    assert torch.equal(depth_edges(1000 * depth), depth_edges(depth))


def test_no_step_is_seen_across_pixels_that_are_not_valid():
    points = two_planes()
    valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    valid[:, 6:8] = False
    assert not depth_edges(points[..., 2], valid)[valid].any()
    points[:, 6:8] = torch.nan
    assert not depth_edges(points[..., 2])[valid].any()


def test_nothing_valid_gives_no_edges():
    nothing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    assert not depth_edges(two_planes()[..., 2], nothing).any()
    assert not depth_and_normal_edges(two_planes(), nothing).any()


def test_normals_of_a_plane_are_its_own_and_face_the_camera():
    normal = torch.tensor((0.3, -0.2, -0.9), dtype=torch.float64)
    normal = normal / normal.norm()
    normals, known = normals_of_point_map(plane(normal.tolist(), -2.0))
    assert known.all()
    torch.testing.assert_close(normals, normal.expand(HEIGHT, WIDTH, 3))


def test_normals_next_to_unknown_points_come_from_the_other_side():
    points = plane((0.0, 0.0, 1.0), 2.0)
    points[4, 5] = torch.nan
    normals, known = normals_of_point_map(points)
    assert not known[4, 5]
    assert known.sum() == known.numel() - 1
    torch.testing.assert_close(normals[known], torch.tensor((0.0, 0.0, -1.0), dtype=torch.float64).expand(int(known.sum()), 3))


def test_grazing_plane_has_steps_of_depth_but_no_edge():
    points = plane((0.8, 0.0, 0.6), 1.0)
    assert depth_edges(points[..., 2]).any()
    assert not depth_and_normal_edges(points).any()


def test_crease_without_a_step_is_an_edge_of_normals_only():
    ray = rays()
    roof = ray * torch.minimum(1 / (ray @ ray.new_tensor((0.05, 0, 1))), 1 / (ray @ ray.new_tensor((-0.2, 0, 1))))[..., None]
    normals, known = normals_of_point_map(roof)
    assert known.all()
    assert normal_edges(normals)[:, 5:9].any()
    assert not normal_edges(normals)[:, :3].any()
    assert not depth_and_normal_edges(roof).any()


def test_wall_before_a_wall_is_an_edge():
    edges = depth_and_normal_edges(two_planes())
    assert edges[:, 6:8].all()
    assert edges.sum() == 2 * HEIGHT


def test_one_pixel_has_no_normal_and_no_edge():
    normals, known = normals_of_point_map(torch.ones(1, 1, 3))
    assert not known.any()
    assert torch.equal(normals, torch.zeros(1, 1, 3))
    assert not depth_and_normal_edges(torch.ones(1, 1, 3)).any()


def test_maps_and_windows_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="window_px = 4"):
        depth_edges(torch.ones(3, 3), window_px=4)
    with pytest.raises(InputError, match="valid"):
        depth_edges(torch.ones(3, 3), torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(InputError, match=r"\(3, 3\)"):
        normals_of_point_map(torch.ones(3, 3))
    with pytest.raises(InputError, match="at least one row"):
        depth_edges(torch.ones(0, 3))


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy])
def test_points_in_world_follow_their_pose(batch, array):
    generator = np.random.default_rng(0)
    points, pose = generator.normal(size=(*batch, 4, 5, 3)), se3.exp(generator.normal(size=(*batch, 6)))
    world = points_in_world(array(points), array(pose))
    homogeneous = np.concatenate([points, np.ones_like(points[..., :1])], -1)
    np.testing.assert_allclose(world, np.einsum("...ij,...hwj->...hwi", pose, homogeneous)[..., :3], atol=1e-12)


def test_points_and_poses_of_other_numbers_are_refused():
    with pytest.raises(InputError, match="leading sizes"):
        points_in_world(np.zeros((2, 4, 5, 3)), np.zeros((3, 4, 4)))
