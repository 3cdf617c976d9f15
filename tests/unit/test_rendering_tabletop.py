import cv2
import numpy as np
import pytest
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.geometry.camera import project
from perception.io import meshes
from perception.rendering.tabletop import TARGETS, TabletopScene


@pytest.fixture(scope="module")
def scene():
    return TabletopScene(seed=3, width=160, height=120)


def test_targets_are_seen_along_the_trajectory(scene):
    trajectory = scene.trajectory(7)
    assert trajectory.shape == (7, 4, 4)
    for camera_from_world in trajectory:
        view = scene.render(camera_from_world)
        assert view.mask.all()
        for name in TARGETS:
            seen = view.instance_ids == scene.names.index(name)
            assert seen.sum() > 0.008 * seen.size
        assert (view.depth_m > 0.2).all()


def test_known_poses_hold_in_the_picture(scene):
    """Points of the box's instance, taken into its own frame by the known poses, lie on its surface."""
    camera_from_world = scene.trajectory(3)[1]
    view = scene.render(camera_from_world)
    placed = scene.objects["box"]
    camera_from_object = camera_from_world @ placed.world_from_object
    rows, columns = np.nonzero(view.instance_ids == scene.names.index("box"))
    points = (view.object_points[rows, columns] - placed.world_from_object[:3, 3]) @ placed.world_from_object[:3, :3]
    assert (np.abs(points) <= placed.mesh.bounds[1] + 1e-5).all()
    assert np.abs(np.abs(points) / placed.mesh.bounds[1] - 1).min(1).max() < 1e-3
    points_camera = points @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    assert np.abs(project(points_camera, scene.camera) - np.stack([columns, rows], 1)).max() < 0.01


def test_objects_stand_on_the_table_and_apart(scene):
    corners = {}
    for name, (mesh, world_from_object) in scene.objects.items():
        world = mesh.vertices @ world_from_object[:3, :3].T + world_from_object[:3, 3]
        assert_close(world[:, 2].min(), np.float64(0), atol=1e-6)
        corners[name] = cv2.convexHull(world[:, :2].astype(np.float32))
    names = list(corners)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert cv2.intersectConvexConvex(corners[first], corners[second])[0] == 0, (first, second)


def test_equal_seeds_give_equal_pixels_and_others_do_not():
    views = [TabletopScene(seed, 64, 48) for seed in (5, 5, 6)]
    first, again, other = (scene.render(scene.trajectory(1)[0]).image for scene in views)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_textures_are_rich_and_the_light_is_sound(scene):
    view = scene.render(scene.trajectory(1)[0])
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY).astype(float)
    assert 60 < grey.mean() < 190
    assert (view.image == 255).all(-1).mean() < 0.05
    for name in TARGETS:
        assert grey[view.instance_ids == scene.names.index(name)].std() > 20


def test_targets_can_be_saved_and_read_for_onboarding(scene, tmp_path):
    for name in TARGETS:
        mesh = scene.objects[name].mesh
        meshes.save(mesh, tmp_path / f"{name}.obj")
        loaded = meshes.load(tmp_path / f"{name}.obj")
        np.testing.assert_array_equal(loaded.texture, mesh.texture)
        assert_close(loaded.bounds, mesh.bounds)


def test_shadow_falls_beside_the_box(scene):
    """On the side away from the light the table is darker than on the other."""
    placed = scene.objects["box"]
    view_from_above = np.diag([1.0, -1, -1, 1])
    view_from_above[:3, 3] = -view_from_above[:3, :3] @ (placed.world_from_object[:3, 3] + np.array([0, 0, 0.9]))
    view = scene.render(view_from_above)
    table = view.instance_ids == scene.names.index("table")
    offset = view.object_points[..., :2] - placed.world_from_object[:2, 3]
    beside = table & (np.linalg.norm(offset, axis=-1) < 0.16)
    away = offset @ np.array([0.35, -0.45]) / np.hypot(0.35, 0.45)
    brightness = view.image.mean(-1)
    assert brightness[beside & (away < -0.03)].mean() < 0.92 * brightness[beside & (away > 0.03)].mean()


def test_bad_arguments():
    with pytest.raises(InputError, match="at least 16x16"):
        TabletopScene(width=4, height=4)
    with pytest.raises(InputError, match="at least 1"):
        TabletopScene(width=32, height=32).trajectory(0)
