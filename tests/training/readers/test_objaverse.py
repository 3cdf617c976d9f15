import shutil
from functools import cache

import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy
from tests.support.miniatures.objaverse import OBJECT, write_objaverse
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px, seen_by

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io import images
from perception.rendering import primitives
from perception_training.data.layouts import objaverse_renders
from perception_training.data.readers import open_dataset
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig

ALL = (0, 1, 2, 3)
PUBLISHED = Camera(512, 512, 560.0, 560.0, 256.0, 256.0)


@cache
def published_scene():
    return seen_by(miniature_scene(), PUBLISHED)


def test_an_object_gives_the_views_of_the_scene(tmp_path):
    write_objaverse(tmp_path, published_scene())
    dataset = open_dataset("objaverse", tmp_path / "objaverse_renderings")
    assert dataset.sequence_names == (OBJECT,)
    sample = dataset[0].load(ALL)
    assert sample.frame_names == ("000000", "000001", "000002", "000003")
    assert sample.unit == "arbitrary"
    assert sample.cameras == (PUBLISHED,) * 4
    for frame in ALL:
        seen = published_scene().depth_m[frame] > 0
        np.testing.assert_array_equal(sample.masks[frame], seen)
        np.testing.assert_array_equal(sample.images[frame][seen], published_scene().images[frame][seen])
        assert not sample.images[frame][~seen].any()
        assert np.abs(sample.depth_m[frame] - published_scene().depth_m[frame]).max() < 0.00051
    assert reprojection_error_px(sample, published_scene(), ALL) < 0.5


def test_the_published_loader_has_the_same_object_points(tmp_path):
    """`img_coord_2_obj_coord` of 3DCorrEnhance: inverse pose times depth times inverse intrinsics times integer pixel."""
    write_objaverse(tmp_path, published_scene())
    sample = open_dataset("objaverse", tmp_path / "objaverse_renderings")[0].load([2])
    pose, matrix = np.load(tmp_path / "obj_poses.npy")[2], PUBLISHED.matrix
    for x, y in ((256, 300), (100, 400), (411, 305)):
        in_camera = np.linalg.inv(matrix) @ (sample.depth_m[0][y, x] * np.array([x, y, 1.0]))
        assert np.abs(sample.points_world(0)[y, x] - (np.linalg.inv(pose) @ np.append(in_camera, 1))[:3]).max() < 1e-6


def test_objects_lie_one_or_two_folders_down_and_unfinished_ones_are_left_out(tmp_path):
    scene = miniature_scene()
    for name in (OBJECT, "plain", "000-001/b", "000-001/c.partial"):
        write_objaverse(tmp_path, scene, name)
    root = tmp_path / "objaverse_renderings"
    assert open_dataset("objaverse", root).sequence_names == ("000-001/b", OBJECT, "plain")
    (tmp_path / "list.txt").write_text(f"{OBJECT}\n")
    assert open_dataset("objaverse", root, {"names": str(tmp_path / "list.txt")}).sequence_names == (OBJECT,)


def test_poses_lie_in_the_folder_or_above_or_where_the_option_says(tmp_path):
    write_objaverse(tmp_path, published_scene())
    root = tmp_path / "objaverse_renderings"
    other = np.load(tmp_path / "obj_poses.npy")[::-1]
    np.save(root / "obj_poses.npy", other)
    np.testing.assert_allclose(open_dataset("objaverse", root)[0].world_from_camera, np.linalg.inv(other), atol=1e-12)
    elsewhere = open_dataset("objaverse", root, {"poses": str(tmp_path / "obj_poses.npy")})
    np.testing.assert_allclose(elsewhere[0].world_from_camera, published_scene().world_from_camera, atol=1e-12)


def test_renders_are_read_back_as_they_were_made(tmp_path):
    config = MeshViewsConfig(size_px=80, num_views=12)
    mesh = primitives.box((0.3, 0.5, 0.4), [np.full((16, 16, 3), 40 * k + 20, np.uint8) for k in range(6)], "box")
    sequence = MeshViews(mesh, config, seed=1)
    rendered = sequence.load(range(12))
    objaverse_renders.write_poses(tmp_path, sequence.camera_from_object)
    objaverse_renders.write_settings(tmp_path, config.camera, {})
    for index in range(12):
        objaverse_renders.write_view(tmp_path / "a/box", index, rendered.images[index], rendered.masks[index] > 0, rendered.depth_m[index])
    read = open_dataset("objaverse", tmp_path)[0].load(range(12))
    assert read.cameras == rendered.cameras
    np.testing.assert_allclose(read.world_from_camera, rendered.world_from_camera, atol=1e-12)
    for index in range(12):
        np.testing.assert_array_equal(read.images[index], rendered.images[index])
        np.testing.assert_array_equal(read.masks[index], rendered.masks[index])
        assert np.abs(read.depth_m[index] - rendered.depth_m[index]).max() < 0.00051
        gap = np.abs(read.points_world(index) - rendered.points_world(index))
        assert np.nanmax(gap) < 0.0007
    np.testing.assert_allclose(read.objects[0].camera_from_object, rendered.objects[0].camera_from_object, atol=1e-12)


def test_depth_that_did_not_fit_is_unknown(tmp_path):
    depth = np.full((8, 8), 70.0, np.float32)
    depth[0, 0] = 1.5
    objaverse_renders.write_view(tmp_path, 0, np.zeros((8, 8, 3), np.uint8), depth > 0, depth)
    stored = images.read_depth_image(tmp_path / "depth_000000.png")
    assert (stored[0, 0], stored[1, 1]) == (1500, 65535)
    read = objaverse_renders.read_depth(tmp_path / "depth_000000.png", (8, 8))
    assert read[0, 0] == np.float32(1.5)
    assert not read[1:].any()


class TestBadInput(BadInput):
    def write(self, folder):
        scene = miniature_scene()
        instance = write_objaverse(folder, scene)
        root = folder / "objaverse_renderings"
        objaverse_renders.write_settings(root, scene.cameras[0], {})
        files = [objaverse_renders.view_files(instance, frame) for frame in ALL]
        colors, depths = tuple(item.color for item in files), tuple(item.depth for item in files)
        return Copy("objaverse", root, OBJECT, colors, depths, annotations=(folder / "obj_poses.npy",))

    def no_rotation(self, copy):
        path = copy.root.parent / "obj_poses.npy"
        poses = np.load(path)
        poses[2, :3, :3] *= 1.1
        np.save(path, poses)
        return f"{path}[2]"

    def no_frames(self, copy):
        shutil.rmtree(copy.root / copy.sequence)
        (copy.root / copy.sequence).mkdir()
        return copy.root / copy.sequence


def test_damaged_masks_and_settings_are_named(tmp_path):
    folder = write_objaverse(tmp_path, published_scene())
    root = tmp_path / "objaverse_renderings"
    mask = folder / "mask_000001.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(InputError, match=str(mask)):
        open_dataset("objaverse", root)[0].load([1])
    (root / "render.json").write_text('{"camera": {"width": 3}, "settings": {}}')
    with pytest.raises(InputError, match=r"render\.json"):
        open_dataset("objaverse", root)[0]
