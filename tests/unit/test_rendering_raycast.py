import numpy as np
import pytest
from tests.support.closeness import DATA, assert_close

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import so3
from perception.geometry.camera import project
from perception.io import meshes
from perception.io.meshes import Mesh
from perception.rendering import primitives
from perception.rendering.raycast import BACKGROUND, Lighting, MeshScene, render, sample_texture
from perception.rendering.viewpoints import cameras_around, look_at, viewpoints

CAMERA = Camera(80, 60, 90.0, 92.0, 40.3, 29.1)
FLAT = Lighting(ambient=1.0, diffuse=0.0)


def textured_box(size=(0.2, 0.1, 0.3), tile=64, seed=1):
    rng = np.random.default_rng(seed)
    return primitives.box(size, [rng.integers(0, 255, (tile, tile, 3), dtype=np.uint8) for _ in range(6)])


def facing_square(color=(10, 200, 90), half=0.5, depth=2.0):
    vertices = np.array([[-half, -half, depth], [half, -half, depth], [half, half, depth], [-half, half, depth]], np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), vertex_colors=np.tile(np.array(color, np.uint8), (4, 1)))


@pytest.mark.parametrize("camera", [CAMERA, Camera(80, 60, 90.0, 92.0, 40.3, 29.1, "plumb_bob", (-0.2, 0.05, 0.002, -0.001))])
def test_points_and_depth_reproject_onto_their_pixels(camera):
    mesh = textured_box()
    for camera_from_object in cameras_around(mesh.center, 0.6, 12):
        view = render(mesh, camera, camera_from_object)
        rows, columns = np.nonzero(view.mask)
        assert len(rows) > 200
        points = view.object_points[rows, columns].astype(float)
        points_camera = points @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
        assert np.abs(project(points_camera, camera) - np.stack([columns, rows], 1)).max() < 0.01
        assert_close(points_camera[:, 2].astype(np.float32), view.depth_m[rows, columns])
        on_surface = np.abs(np.abs(points) / (np.array([0.2, 0.1, 0.3]) / 2) - 1).min(1)
        assert on_surface.max() < 1e-4


def test_normals_are_unit_and_face_the_camera():
    mesh = textured_box()
    camera_from_object = look_at(np.array([0.5, -0.4, 0.3]), mesh.center)
    view = render(mesh, CAMERA, camera_from_object)
    normals, points = view.normals[view.mask].astype(float), view.object_points[view.mask].astype(float)
    assert_close(np.linalg.norm(normals, axis=1), np.ones(len(normals)), atol=1e-5)
    points_camera = points @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    assert (np.einsum("ij,ij->i", normals, points_camera) < 0).all()
    normals_object = normals @ camera_from_object[:3, :3]
    expected = np.eye(3)[np.abs(np.abs(points) / (np.array([0.2, 0.1, 0.3]) / 2) - 1).argmin(1)]
    assert_close(np.abs(normals_object), expected, atol=1e-5)


def test_plane_has_its_depth_and_colour_and_the_rest_is_background():
    backdrop = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    view = render(facing_square(), CAMERA, np.eye(4), lighting=FLAT, background=backdrop)
    half_width, half_height = 90 * 0.25, 92 * 0.25
    columns, rows = np.meshgrid(np.arange(80), np.arange(60))
    inside = (np.abs(columns - 40.3) < half_width) & (np.abs(rows - 29.1) < half_height)
    np.testing.assert_array_equal(view.mask, inside)
    assert_close(view.depth_m, np.where(inside, 2.0, 0.0).astype(np.float32))
    np.testing.assert_array_equal(view.image[inside], np.tile((10, 200, 90), (inside.sum(), 1)))
    np.testing.assert_array_equal(view.image[~inside], backdrop[~inside])
    assert (view.instance_ids[~inside] == BACKGROUND).all()
    assert (view.object_points[~inside] == 0).all()


def test_lambert_shading():
    """A square seen and lit under 60 degrees: cosine 0.5."""
    direction = (np.sqrt(0.75), 0.0, -0.5)
    view = render(facing_square((100, 100, 100)), CAMERA, np.eye(4), lighting=Lighting(0.2, 0.6, direction))
    assert set(np.unique(view.image[view.mask]).tolist()) == {50}


def test_nearer_object_hides_the_farther_one_and_has_its_id():
    near = np.eye(4)
    near[2, 3] = -0.5
    scene = MeshScene({"far": (facing_square((200, 0, 0), 0.6), np.eye(4)), "near": (facing_square((0, 0, 200), 0.1), near)})
    view = render(scene, CAMERA, np.eye(4), lighting=FLAT)
    assert scene.names == ("far", "near")
    assert (view.instance_ids[29, 40], view.instance_ids[15, 40]) == (1, 0)
    assert view.image[29, 40].tolist() == [0, 0, 200]
    assert view.depth_m[29, 40] == pytest.approx(1.5)


def test_texture_lies_on_the_box_as_it_was_drawn():
    """Looking at the front side, its picture is seen upright and not mirrored."""
    tile = 60
    sides = [np.zeros((tile, tile, 3), np.uint8) for _ in range(6)]
    sides[0][: tile // 2, : tile // 2] = (255, 0, 0)
    sides[0][: tile // 2, tile // 2 :] = (0, 255, 0)
    sides[0][tile // 2 :, : tile // 2] = (0, 0, 255)
    view = render(primitives.box((0.4, 0.1, 0.4), sides), CAMERA, look_at(np.array([0.0, -1.0, 0.0]), np.zeros(3)), lighting=FLAT)
    rows, columns = np.nonzero(view.mask)
    top, bottom, left, right = rows.min() + 4, rows.max() - 4, columns.min() + 4, columns.max() - 4
    corners = [view.image[row, column].tolist() for row in (top, bottom) for column in (left, right)]
    assert corners == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]


def test_texture_lookup_is_bilinear_and_repeats():
    texture = np.array([[[0, 0, 0], [100, 100, 100]], [[200, 200, 200], [40, 40, 40]]], np.uint8)
    uv = np.array([[0.25, 0.75], [0.5, 0.75], [0.25, 0.5], [1.25, 0.75], [-0.75, -0.25], [0.0, 1.0]])
    assert_close(sample_texture(texture, uv)[:, 0], np.array([0, 50, 100, 0, 0, 0], np.float32), atol=1.0)


def test_supersampling_changes_colours_near_edges_only():
    mesh = facing_square((0, 0, 0), 0.4)
    turn = np.eye(4)
    turn[:3, :3] = so3.exp(np.array([0.0, 0.0, 0.2]))
    plain, smooth = (render(mesh, CAMERA, turn, lighting=FLAT, supersampling=n) for n in (1, 4))
    np.testing.assert_array_equal(plain.depth_m, smooth.depth_m)
    between = (smooth.image[..., 0] > 10) & (smooth.image[..., 0] < 245)
    assert between.sum() > 60
    assert set(np.unique(plain.image).tolist()) == {0, 255}
    # The covered area is exact to a small fraction of a pixel row with more rays, while single rays count whole pixels.
    area = 4 * 0.4**2 * (90 / 2) * (92 / 2)
    covered = (255 - smooth.image[..., 0].astype(float)).sum() / 255
    assert abs(covered - area) < 0.004 * area


def test_mesh_without_colours_is_grey_and_bad_arguments_are_refused():
    mesh = Mesh(facing_square().vertices, facing_square().faces)
    view = render(mesh, CAMERA, np.eye(4), lighting=FLAT)
    assert len(np.unique(view.image[view.mask])) == 1
    with pytest.raises(InputError, match="supersampling"):
        render(mesh, CAMERA, np.eye(4), supersampling=0)
    with pytest.raises(InputError, match="background"):
        render(mesh, CAMERA, np.eye(4), background=np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(InputError, match="at least one mesh"):
        MeshScene({})


def test_nothing_in_sight():
    behind = np.eye(4)
    behind[2, 3] = -10
    view = render(facing_square(), CAMERA, behind, supersampling=2)
    assert not view.mask.any()
    assert (view.image == 255).all()


def test_occlusion():
    scene = MeshScene({"wall": (facing_square(half=0.5, depth=2.0), np.eye(4))})
    origins = np.array([[0, 0, 0], [0, 0, 3], [2, 0, 0]], float)
    assert scene.occluded(origins, np.array([0.0, 0, 1])).tolist() == [True, False, False]
    assert scene.occluded(origins, np.array([0.0, 0, 1]), max_distance=1.5).tolist() == [False, False, False]


@pytest.mark.parametrize(("num", "least_deg", "most_deg"), [(12, 63.4, 63.5), (42, 31.7, 36.1), (96, 17.5, 21.0), (162, 15.8, 18.7), (642, 7.9, 9.5)])
def test_viewpoints_are_even(num, least_deg, most_deg):
    points = viewpoints(num)
    assert points.shape == (num, 3)
    assert_close(np.linalg.norm(points, axis=1), np.ones(num))
    cosine = points @ points.T
    np.fill_diagonal(cosine, -1)
    nearest_deg = np.degrees(np.arccos(cosine.max(1)))
    assert least_deg <= nearest_deg.min() <= nearest_deg.max() <= most_deg
    assert np.abs(points.mean(0)).max() < 2e-3
    assert (points[:, 2] > 1e-9).sum() == (points[:, 2] < -1e-9).sum()
    directions = np.random.default_rng(0).normal(size=(2000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert np.degrees(np.arccos((directions @ points.T).max(1).min())) < 0.8 * most_deg


@pytest.mark.parametrize("num", [12, 42, 96])
def test_cameras_look_at_the_centre(num):
    center = np.array([0.3, -0.2, 1.0])
    for camera_from_object in cameras_around(center, 0.7, num):
        assert_close(camera_from_object[:3, :3] @ camera_from_object[:3, :3].T, np.eye(3))
        assert np.linalg.det(camera_from_object[:3, :3]) == pytest.approx(1)
        assert_close(camera_from_object[:3, :3] @ center + camera_from_object[:3, 3], np.array([0, 0, 0.7]), atol=1e-9)
        up_in_camera = camera_from_object[:3, :3] @ np.array([0.0, 0, 1])
        assert abs(up_in_camera[0]) < 1e-9
        assert up_in_camera[1] <= 1e-9


def test_viewpoint_errors():
    with pytest.raises(InputError, match="at least 1"):
        viewpoints(0)
    with pytest.raises(InputError, match="must be positive"):
        cameras_around(np.zeros(3), 0.0, 12)
    with pytest.raises(InputError, match="must not lie on its target"):
        look_at(np.zeros(3), np.zeros(3))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "ycb").is_dir(), reason="ycb is not there")
@pytest.mark.parametrize("name", ["003_cracker_box", "025_mug"])
def test_real_meshes_render_closed_and_textured(name):
    mesh = meshes.load(DATA / "ycb" / name / "textured.obj")
    scene, camera = MeshScene({name: (mesh, np.eye(4))}), Camera(128, 128, 140.0, 140.0, 63.5, 63.5)
    for camera_from_object in cameras_around(mesh.center, 2.5 * mesh.diameter_m, 12):
        view = render(scene, camera, camera_from_object)
        rows, columns = np.nonzero(view.mask)
        assert len(rows) > 200
        points = view.object_points[view.mask]
        assert (points > mesh.bounds[0] - 1e-4).all()
        assert (points < mesh.bounds[1] + 1e-4).all()
        points_camera = points.astype(float) @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
        assert np.abs(project(points_camera, camera) - np.stack([columns, rows], 1)).max() < 0.01
        assert view.image[view.mask].std() > 3
