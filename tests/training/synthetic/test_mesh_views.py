"""Rendered views of meshes against analytic truth: boxes, spheres, poses published with MEF."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tests.support.closeness import DATA, assert_close
from tests.support.textured_plane import random_texture

from perception.core.errors import ConfigError, InputError
from perception.geometry import se3
from perception.geometry.camera import depth_to_points, project
from perception.io import images, meshes
from perception.io.meshes import Mesh
from perception.rendering import primitives
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig, render_mesh_views
from perception_training.data.synthetic.mesh_views.normalisation import poses, with_texture_for
from perception_training.data.synthetic.mesh_views.views import find_meshes, object_name

SIZE = (0.5, 0.25, 1.0)
SMALL = MeshViewsConfig(size_px=96, num_views=12)


def box(scale: float = 1.0, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    mesh = primitives.box(SIZE, [random_texture(seed, 64) for seed in range(6)])
    return replace(mesh, vertices=(mesh.vertices * scale + np.array(shift)).astype(np.float32))


def rays(config: MeshViewsConfig, camera_from_object) -> tuple[np.ndarray, np.ndarray]:
    """Eye (3,) and directions (height, width, 3) of all pixels in the object's frame; along a direction the depth grows by 1."""
    object_from_camera = np.linalg.inv(camera_from_object)
    directions = depth_to_points(np.ones((config.size_px,) * 2), config.camera).astype(np.float64) @ object_from_camera[:3, :3].T
    return object_from_camera[:3, 3], directions


def test_defaults_are_those_of_the_published_renders():
    """obj_poses.npy of 3DCorrEnhance, entries 0 and 1 (camera_from_object, OpenCV axes), and the intrinsics of its loader."""
    published = (
        [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[0.951058053, -0.309012264, 0], [0.262862646, 0.809021733, -0.525725275], [0.162455557, 0.499995257, 0.850654416]],
    )
    config = MeshViewsConfig()
    found = poses(config.num_views, config.distance)
    assert found.shape == (42, 4, 4)
    assert_close(found[:, :3, 3], np.tile([0.0, 0.0, 2.0], (42, 1)), atol=1e-9)
    for rotation in published:
        assert np.abs(found[:, :3, :3] - np.array(rotation)).max(axis=(1, 2)).min() < 1e-4
    camera = config.camera
    assert (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy) == (512, 512, 560.0, 560.0, 256.0, 256.0)
    assert MeshViewsConfig(size_px=256).camera == replace(camera, width=256, height=256, fx=280.0, fy=280.0, cx=128.0, cy=128.0)
    assert MeshViewsConfig(focal_px=300, principal_point_px=(250.5, 251.0)).camera.cy == 251.0


def test_a_box_has_the_depth_normals_and_object_points_of_a_box():
    sample = render_mesh_views(box(scale=3.0, shift=(5.0, -2.0, 1.0)), SMALL)
    half = np.array(SIZE) / 2
    assert sample.depth_m is not None
    assert sample.masks is not None
    assert sample.normals is not None
    for view, camera_from_object in enumerate(sample.objects[0].camera_from_object):
        eye, directions = rays(SMALL, camera_from_object)
        with np.errstate(divide="ignore", invalid="ignore"):
            first, second = (-half - eye) / directions, (half - eye) / directions
        enter, leave = np.fmin(first, second), np.fmax(first, second)
        depth, axis = enter.max(axis=-1), enter.argmax(axis=-1)
        gap = leave.min(axis=-1) - depth
        sure = np.abs(gap) > 1e-4  # a ray along an edge may go either way
        hit = gap > 0
        np.testing.assert_array_equal((sample.masks[view] == 1)[sure], hit[sure])
        inside = hit & sure
        assert inside.sum() > 300
        assert np.abs(sample.depth_m[view] - depth)[inside].max() < 8e-6
        points = eye + directions * depth[..., None]
        assert np.abs(sample.points_world(view) - points)[inside].max() < 4e-6
        second_best = np.sort(enter, axis=-1)[..., 1]
        normals = np.eye(3)[axis] * -np.sign(np.take_along_axis(directions, axis[..., None], -1)) @ camera_from_object[:3, :3].T
        clear = inside & (depth - second_best > 1e-4)
        assert np.abs(sample.normals[view] - normals)[clear].max() < 1e-5


def test_a_sphere_has_the_depth_and_normals_of_a_sphere():
    num_segments = 256
    sphere = primitives.sphere(0.2, random_texture(0, 64), num_segments=num_segments)
    config = replace(SMALL, num_views=3)
    sample = render_mesh_views(sphere, config)
    assert sample.depth_m is not None
    assert sample.normals is not None
    for view, camera_from_object in enumerate(sample.objects[0].camera_from_object):
        eye, directions = rays(config, camera_from_object)
        a, b, c = (directions**2).sum(-1), (directions @ eye), eye @ eye - 0.25
        root = b * b - a * c
        depth = (-b - np.sqrt(np.maximum(root, 0))) / a
        steep = np.sqrt(np.maximum(root, 1e-9)) / np.sqrt(a)  # cosine of incidence times the radius
        inner = (root > 0) & (steep > 0.1)
        assert inner.sum() > 500
        sagitta = 0.5 * (1 - np.cos(np.pi / num_segments * 2))
        assert (np.abs(sample.depth_m[view] - depth) * steep / 0.5)[inner].max() < 2 * sagitta
        normals = (eye + directions * depth[..., None]) / 0.5 @ camera_from_object[:3, :3].T
        cosine = (sample.normals[view] * normals).sum(-1)[inner]
        assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 1.5


def test_object_points_of_one_view_are_seen_at_their_place_in_the_others():
    sample = render_mesh_views(box(), SMALL)
    assert sample.depth_m is not None
    assert sample.world_from_camera is not None
    num_seen = 0
    for a in range(len(sample)):
        points = sample.points_world(a)[sample.depth_m[a] > 0][::7].astype(np.float64)
        for b in range(len(sample)):
            in_camera = se3.transform_points(np.linalg.inv(sample.world_from_camera[b]), points)
            pixels = project(in_camera, SMALL.camera)
            nearest = np.rint(pixels).astype(int)
            inside = ((nearest >= 0) & (nearest < SMALL.size_px)).all(1)
            depth = np.where(inside, sample.depth_m[b][tuple(np.where(inside[:, None], nearest, 0).T[::-1])], np.inf)
            visible = inside & (np.abs(depth - in_camera[:, 2]) < 0.004)
            if a == b:
                assert visible.all()
                assert np.abs(pixels - nearest).max() < 1e-3
                continue
            num_seen += int(visible.sum())
            # What the other view has at the nearest pixel is the same place of the surface, up to half a pixel on a side that is seen obliquely.
            seen = sample.points_world(b)[tuple(nearest[visible].T[::-1])]
            assert (np.linalg.norm(seen - points[visible], axis=1) < 0.05).all()
    assert num_seen > 500


def test_points_world_are_the_object_coordinates_of_the_ray_caster():
    sequence = MeshViews(box(2.0), SMALL)
    sample = sequence.load([4])
    view = sequence.render(4)
    assert np.abs(sample.points_world(0) - view.object_points)[view.mask].max() < 1e-6
    assert np.isnan(sample.points_world(0)[~view.mask]).all()
    recovered = se3.transform_points(np.linalg.inv(sequence.normalised_from_mesh), view.object_points[view.mask].astype(np.float64))
    on_side = np.abs(np.abs(recovered) / np.array(SIZE) - 1).min(axis=1)
    assert on_side.max() < 1e-5


def test_size_and_place_of_the_mesh_do_not_matter():
    here, there = (render_mesh_views(mesh, SMALL) for mesh in (box(), box(40.0, (7.0, 8.0, -9.0))))
    assert here.depth_m is not None
    assert there.depth_m is not None
    for a, b in zip(here.depth_m, there.depth_m, strict=True):
        assert np.median(np.abs(a - b)) < 1e-5
        assert (np.abs(a - b) > 1e-4).mean() < 1e-3
    bounds = here.objects[0].bounds
    assert bounds is not None
    assert_close(bounds, np.array([[-0.25, -0.125, -0.5], [0.25, 0.125, 0.5]]), atol=1e-6)


def test_gltf_files_stand_upright(tmp_path):
    """y is up in glTF: the box, which is longest along z, lies there; the same box in an OBJ file stands."""
    meshes.save(box(), tmp_path / "box.glb")
    meshes.save(box(), tmp_path / "box.obj")
    lying, standing = (MeshViews(tmp_path / f"box{suffix}", SMALL).load([0]).objects[0].bounds for suffix in (".glb", ".obj"))
    assert lying is not None
    assert standing is not None
    assert_close(lying[1], np.array([0.25, 0.5, 0.125]), atol=1e-6)
    assert_close(standing[1], np.array([0.25, 0.125, 0.5]), atol=1e-6)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_obj_ply_and_glb_give_the_same_truth_and_their_texture(tmp_path, suffix):
    meshes.save(box(), tmp_path / f"box{suffix}")
    config = replace(SMALL, up_axis="z")
    read, direct = MeshViews(tmp_path / f"box{suffix}", config).load([2]), MeshViews(box(), config, name="box").load([2])
    assert read.depth_m is not None
    assert direct.depth_m is not None
    assert np.abs(read.depth_m[0] - direct.depth_m[0]).max() < 1e-5
    assert read.images[0][read.depth_m[0] > 0].std() > 8


def test_the_same_seed_gives_the_same_views_in_whatever_order_and_number_of_threads():
    config = replace(SMALL, background="photographs")
    whole = MeshViews(box(), replace(config, num_threads=1), seed=3).load(range(12))
    some = MeshViews(box(), replace(config, num_threads=4), seed=3).load([7, 2, 7])
    for got, wanted in zip(some.images, (7, 2, 7), strict=True):
        np.testing.assert_array_equal(got, whole.images[wanted])
    copied = pickle.loads(pickle.dumps(MeshViews(box(), config, seed=3)))
    np.testing.assert_array_equal(copied.load([2]).images[0], whole.images[2])


def test_lights_change_with_seed_view_and_name_and_the_truth_does_not():
    plain = replace(box(), texture=np.full((8, 8, 3), 200, np.uint8))
    first, other = (MeshViews(plain, SMALL, seed).load([3]) for seed in (0, 1))
    assert np.abs(first.images[0].astype(int) - other.images[0]).max() > 20
    assert first.depth_m is not None
    assert other.depth_m is not None
    np.testing.assert_array_equal(first.depth_m[0], other.depth_m[0])
    renamed = MeshViews(plain, SMALL, 0, name="other").load([3])
    assert (renamed.images[0] != first.images[0]).any()
    published = [MeshViews(plain, replace(SMALL, lighting="published"), seed).load([3]).images[0] for seed in (0, 1)]
    np.testing.assert_array_equal(*published)


def test_lights_of_an_object_stand_still_when_they_are_drawn_once():
    """Without highlights the top side has one colour from everywhere; drawn for each view, it changes."""
    plain = primitives.box((1, 1, 1), [np.full((8, 8, 3), 120, np.uint8)] * 6)

    def tops(relight: str) -> list[float]:
        sequence = MeshViews(plain, replace(SMALL, relight=relight, num_lights=1), 5)
        colors = []
        for index in range(12):
            view = sequence.render(index)
            top = view.mask & (view.object_points[..., 2] > 0.4999) & (np.abs(view.object_points[..., :2]).max(-1) < 0.2)
            if top.sum() > 40:
                colors.append(float(np.median(view.image[top])))
        return colors

    assert len(tops("view")) >= 4
    assert np.ptp(tops("view")) > 25
    assert np.ptp(tops("object")) < 25


def test_backgrounds(tmp_path):
    black, blue = (MeshViews(box(), replace(SMALL, background=name, supersampling=1)).load([1]) for name in ("black", "#0000ff"))
    assert black.masks is not None
    outside = black.masks[0] == 0
    assert (black.images[0][outside] == 0).all()
    assert (blue.images[0][outside] == (0, 0, 255)).all()
    np.testing.assert_array_equal(black.images[0][~outside], blue.images[0][~outside])
    images.write_image(tmp_path / "a.png", np.full((50, 70, 3), (9, 99, 199), np.uint8))
    folder = MeshViews(box(), replace(SMALL, background=str(tmp_path))).load([1])
    assert (folder.images[0][cv2.erode(outside.astype(np.uint8), np.ones((3, 3))) > 0] == (9, 99, 199)).all()
    photographs = MeshViews(box(), replace(SMALL, background="photographs")).load([0, 1, 2])
    assert min(image[outside].std() for image in photographs.images) > 3
    assert photographs.depth_m is not None
    assert black.depth_m is not None
    np.testing.assert_array_equal(photographs.depth_m[1], black.depth_m[0])


def test_outlines_are_smooth():
    grey = primitives.box((1, 1, 1), [np.full((8, 8, 3), 200, np.uint8)] * 6)
    config = replace(SMALL, lighting="published", background="white")
    rough, smooth = (MeshViews(grey, replace(config, supersampling=n)).load([3]) for n in (1, 3))
    assert rough.masks is not None
    assert smooth.masks is not None
    np.testing.assert_array_equal(rough.masks[0], smooth.masks[0])
    changed = (rough.images[0] != smooth.images[0]).any(axis=-1)
    rim = cv2.morphologyEx(rough.masks[0].astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    assert changed[rim].mean() > 0.2
    assert changed[~rim].mean() < 0.01


def test_textures_finer_than_the_pixels_become_their_mean():
    checker = np.kron(np.indices((512, 512)).sum(0) % 2, np.ones((2, 2)))[..., None].repeat(3, -1).astype(np.uint8) * 200
    fine = primitives.box((1, 1, 1), [checker] * 6)
    shrunk = with_texture_for(fine, SMALL.camera.fx / SMALL.distance)
    assert shrunk.texture is not None
    inner = shrunk.texture[8:40, 8:40]
    assert abs(float(inner.mean()) - 100) < 3
    assert inner.std() < 12
    coarse = box()
    assert with_texture_for(coarse, 1000.0) is coarse


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.obj: no such file"):
        MeshViews(tmp_path / "nowhere.obj", SMALL).load([0])
    (tmp_path / "broken.glb").write_bytes(b"glTFnothing")
    with pytest.raises(InputError, match=r"broken\.glb"):
        MeshViews(tmp_path / "broken.glb", SMALL).load([0])
    (tmp_path / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(InputError, match=r"point\.obj.*extent"):
        MeshViews(tmp_path / "point.obj", SMALL).load([0])
    with pytest.raises(InputError, match=r"frame 12 .* \[0, 12\)"):
        MeshViews(box(), SMALL).load([12])
    with pytest.raises(ConfigError, match="no such folder"):
        MeshViews(box(), replace(SMALL, background=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="name of a colour"):
        MeshViews(box(), replace(SMALL, background="blackish"))
    with pytest.raises(ConfigError, match="principal_point_px"):
        MeshViewsConfig(principal_point_px=(1.0,))


def test_meshes_are_found_and_named_by_folder_and_stem(tmp_path):
    for name in ("000-001/abc.glb", "000-002/abc.glb", "b.obj"):
        meshes.save(box(), tmp_path / name)
    assert [path.relative_to(tmp_path).as_posix() for path in find_meshes(tmp_path)] == ["000-001/abc.glb", "000-002/abc.glb", "b.obj"]
    assert object_name(tmp_path / "000-001/abc.glb") == "000-001/abc"
    with pytest.raises(InputError, match="no such file or folder"):
        find_meshes(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no meshes"):
        find_meshes(tmp_path / "empty")


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "ycb").is_dir(), reason="ycb is not there")
def test_real_meshes_fill_the_views_as_published():
    for path in find_meshes(DATA / "ycb"):
        sample = MeshViews(path, replace(SMALL, size_px=128)).load([0, 5])
        assert sample.objects[0].bounds is not None
        assert (sample.objects[0].bounds[1] - sample.objects[0].bounds[0]).max() == pytest.approx(1, abs=1e-5)
        for view in range(2):
            points = sample.points_world(view)[np.isfinite(sample.points_world(view)).all(-1)]
            assert len(points) > 200
            assert (np.abs(points) < 0.5 + 1e-4).all()
            assert sample.images[view].std() > 3
