"""Lights against what one computes by hand, light by light and point by point."""

import numpy as np
import pytest
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.meshes import Mesh
from perception.rendering.lighting import Lighting, LightRig
from perception.rendering.raycast import MeshScene, render
from perception.rendering.viewpoints import look_at

POSITIONS = np.array([[1.0, -1.0, 1.0, 1.0], [0.3, 0.4, -2.0, 0.0], [-2.0, 0.5, 0.3, 1.0]])
COLORS = np.array([[1.0, 0.5, 0.2], [0.3, 0.3, 0.4], [2.0, 2.0, 2.0]])


def surfaces(num=50):
    rng = np.random.default_rng(0)
    points, normals = rng.uniform(-0.5, 0.5, (num, 3)), rng.normal(size=(num, 3))
    return points.astype(np.float32), (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)


def by_hand(rig: LightRig, points, normals, scene_from_camera, lit):
    factor, glint = np.tile(rig.ambient, (len(points), 1)), np.zeros((len(points), 3))
    for index, (position, color) in enumerate(zip(rig.positions, rig.colors, strict=True)):
        place = scene_from_camera @ position if rig.frame == "camera" else position
        for row, (point, normal) in enumerate(zip(points, normals, strict=True)):
            way = place[:3] - point * place[3]
            strength = lit[row, index] * (1 / (way @ way) if place[3] else 1.0)
            towards, eye = way / np.linalg.norm(way), scene_from_camera[:3, 3] - point
            cosine = normal @ towards
            factor[row] += strength * max(0, cosine) * color
            if cosine > 0:
                mirrored = 2 * cosine * normal - towards
                glint[row] += rig.highlight * strength * max(0, mirrored @ eye / np.linalg.norm(eye)) ** rig.shininess * color
    return factor, glint


@pytest.mark.parametrize("frame", ["scene", "camera"])
def test_the_rig_is_the_sum_of_its_lights(frame):
    points, normals = surfaces()
    rig = LightRig(POSITIONS, COLORS, (0.1, 0.2, 0.3), frame, highlight=0.4, shininess=8.0)
    scene_from_camera = np.linalg.inv(look_at(np.array([1.5, -1.0, 0.7]), np.zeros(3)))
    lit = np.random.default_rng(1).random((len(points), 3)) > 0.3
    for shade, visible in ((None, np.ones((len(points), 3))), (lit, lit)):
        factor, highlight = rig.shade(points, normals, scene_from_camera, shade)
        expected_factor, expected_highlight = by_hand(rig, points, normals, scene_from_camera, visible)
        assert_close(factor, expected_factor, rtol=1e-4)
        assert_close(highlight, expected_highlight, rtol=1e-3, atol=2e-3)


def test_without_highlight_none_is_computed_and_one_far_light_is_lambert():
    points, normals = surfaces()
    direction = np.array([0.2, -0.4, 0.9]) / np.linalg.norm([0.2, -0.4, 0.9])
    rig = LightRig(np.append(direction, 0.0)[None], np.full((1, 3), 0.6), (0.45, 0.45, 0.45))
    factor, highlight = rig.shade(points, normals, np.eye(4))
    assert highlight is None
    lambert = Lighting(0.45, 0.6, tuple(direction), in_camera_axes=False).factor(normals, np.eye(4))
    assert_close(factor, np.repeat(lambert, 3, axis=1))


def test_a_wall_throws_its_shadow_on_the_floor():
    """A point light 1 above the floor and a card half way: its shadow is twice as large as the card."""
    floor = np.array([[-2, -2, 0], [2, -2, 0], [2, 2, 0], [-2, 2, 0]], np.float32)
    card = floor * 0.1 + np.array([0, 0, 0.5], np.float32)
    mesh = Mesh(np.concatenate([floor, card]), np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]))
    rig = LightRig(np.array([[0, 0, 1.0, 1]]), np.ones((1, 3)), (0.1, 0.1, 0.1), shadows=True)
    view = render(
        MeshScene({"floor and card": (mesh, np.eye(4))}),
        Camera(101, 101, 50.0, 50.0, 50, 50),
        look_at(np.array([0, 0, -2.0]), np.zeros(3)),
        lighting=rig,
    )
    assert len(np.unique(view.image[view.mask])) == 1  # from below nothing is lit
    above = render(
        MeshScene({"both": (mesh, np.eye(4))}), Camera(201, 201, 200.0, 200.0, 100, 100), look_at(np.array([1.5, 0, 1.5]), np.zeros(3)), lighting=rig
    )
    on_floor = above.mask & (np.abs(above.object_points[..., 2]) < 1e-3)
    within = (np.abs(above.object_points[..., :2]) < 0.39).all(axis=-1)
    outside = (np.abs(above.object_points[..., :2]) > 0.41).any(axis=-1)
    assert set(np.unique(above.image[on_floor & within]).tolist()) == {16}
    assert above.image[on_floor & outside & (np.linalg.norm(above.object_points, axis=-1) < 1)].min() > 40


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"must be \(num, 4\)"):
        LightRig(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"1 \(a point\) or 0"):
        LightRig(np.full((1, 4), 0.5), np.zeros((1, 3)))
    with pytest.raises(InputError, match="light colours"):
        LightRig(POSITIONS, COLORS[:2])
