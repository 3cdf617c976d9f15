"""Objects drawn from seeds: closed, turned outwards, textured, different from each other and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.objects import random_object
from perception_training.data.synthetic.objects.shapes import SHAPES
from perception_training.data.synthetic.objects.sheets import TILE_PX, joined, sheet


def enclosed_volume(mesh) -> float:
    """By the divergence theorem; positive where faces are counter-clockwise as seen from outside."""
    a, b, c = mesh.vertices.astype(np.float64)[mesh.faces].transpose(1, 0, 2)
    return float(np.einsum("ni,ni->", a, np.cross(b, c)) / 6)


def plain_pictures(num: int) -> list[np.ndarray]:
    return [np.full((8, 8, 3), 200, np.uint8)] * num


@pytest.mark.parametrize("make", [make for make, _ in SHAPES])
def test_shapes_are_closed_and_turned_outwards(make):
    for seed in range(8):
        body = make(np.random.default_rng(seed))
        mesh = joined(body, plain_pictures(len(body)), "shape")
        volume = enclosed_volume(mesh)
        assert volume > 0
        shifted = mesh.vertices + np.array([3.0, -2.0, 5.0], np.float32)
        moved = type(mesh)(shifted, mesh.faces, mesh.uv, mesh.texture, None, "moved")
        assert enclosed_volume(moved) == pytest.approx(volume, rel=1e-3, abs=1e-4)  # only of a closed surface it does not depend on the origin


def test_a_seed_gives_the_same_object_every_time_and_another_seed_another_one():
    once, again, other = random_object(7), random_object(7), random_object(8)
    np.testing.assert_array_equal(once.vertices, again.vertices)
    np.testing.assert_array_equal(once.texture, again.texture)
    assert once.texture.shape != other.texture.shape or not np.array_equal(once.texture, other.texture)


def test_a_picture_lies_upright_on_its_sheet():
    """Red below left, green below right, blue above: so the corners of the sheet must be read."""
    picture = np.zeros((*TILE_PX, 3), np.uint8)
    middle = (TILE_PX[0] // 2, TILE_PX[1] // 2)
    picture[middle[0] :, : middle[1], 0] = picture[middle[0] :, middle[1] :, 1] = picture[: middle[0], :, 2] = 255
    corners = np.array([[[0, 0, 0], [1, 0, 0]], [[0, 0, 1], [1, 0, 1]]], float)
    for number in (0, 1):
        pictures = plain_pictures(2)
        pictures[number] = picture
        mesh = joined([sheet(corners), sheet(corners)], pictures, "sheets")
        height, width = mesh.texture.shape[:2]
        u, v = mesh.uv[4 * number : 4 * number + 4].T
        colours = mesh.texture[np.floor((1 - v) * height).astype(int), np.floor(u * width).astype(int)]
        np.testing.assert_array_equal(colours, [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 255]])


def test_objects_have_contrast_and_extent_in_their_views():
    config = MeshViewsConfig(size_px=64, supersampling=1, num_threads=1)
    spreads = []
    for seed in range(6):
        view = MeshViews(random_object(seed), config, name=str(seed)).render(20)
        assert view.mask.mean() > 0.02
        spreads.append(view.image[view.mask].astype(float).std())
    assert np.median(spreads) > 20
