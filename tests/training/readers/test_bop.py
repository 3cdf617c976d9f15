import json

import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy, assert_reported
from tests.support.miniatures.bop import IMAGE_IDS, MASK_IDS, write_bop
from tests.support.miniatures.objects import BOUNDS, object_error_px, reprojection_error_through_object_px
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px

from perception.core.errors import InputError
from perception.io import images, meshes
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)
NAMES = {"obj_000007": "box", "obj_000002": "ball"}


def open_only(root, **options):
    return open_dataset("bop", root, options)[0]


def test_a_scene_gives_its_images_depth_and_poses_in_metres(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene)
    sequence = open_only(tmp_path)
    assert (sequence.name, sequence.frame_names) == ("test/000048", tuple(f"{image_id:06d}" for image_id in IMAGE_IDS))
    sample = sequence.load(ALL)
    for frame in ALL:
        np.testing.assert_array_equal(sample.images[frame], scene.images[frame])
        np.testing.assert_allclose(sample.depth_m[frame], scene.depth_m[frame], atol=6e-5)
    assert sample.unit == "metre"
    assert reprojection_error_px(sample, scene, ALL) < 0.05


def test_object_poses_project_where_the_objects_are(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, with_scene_poses=False)
    sample = open_only(tmp_path).load((2, 0, 3))
    assert sample.world_from_camera is None
    assert {item.name for item in sample.objects} == set(NAMES)
    assert object_error_px(sample, scene, (2, 0, 3), NAMES) < 1e-3
    for item in sample.objects:
        assert reprojection_error_through_object_px(sample, scene, (2, 0, 3), item) < 0.05


def test_masks_boxes_and_models_belong_to_the_objects(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene)
    sample = open_only(tmp_path).load(ALL)
    for item in sample.objects:
        name = NAMES[item.name]
        assert item.visible_share.tolist() == [0.75 if name == "box" else 0.5] * 4
        for frame in ALL:
            rows, columns = np.nonzero(scene.masks[frame] == MASK_IDS[name])
            np.testing.assert_array_equal(sample.masks[frame] == item.mask_id, scene.masks[frame] == MASK_IDS[name])
            assert item.boxes_px[frame].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        np.testing.assert_allclose(item.bounds, BOUNDS[name], atol=1e-9)
        np.testing.assert_allclose(meshes.load(item.mesh, item.mesh_unit_m).bounds, BOUNDS[name], atol=2e-3)
    assert set(np.unique(sample.masks[0])) == {0, 1, 2}


def test_instances_of_one_object_are_kept_apart(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, object_ids={"box": 7, "ball": 7})
    sample = open_only(tmp_path).load(ALL)
    assert [item.name for item in sample.objects] == ["obj_000007", "obj_000007#1"]
    np.testing.assert_allclose(sample.objects[0].camera_from_object, scene.camera_from_object("box"), atol=1e-9)
    np.testing.assert_allclose(sample.objects[1].camera_from_object, scene.camera_from_object("ball"), atol=1e-9)
    for frame in ALL:
        np.testing.assert_array_equal(sample.masks[frame], scene.masks[frame])


def test_an_object_that_a_frame_lacks_has_no_pose_there(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, absent=(("ball", 2),))
    sample = open_only(tmp_path).load(ALL)
    ball = next(item for item in sample.objects if NAMES[item.name] == "ball")
    assert np.isnan(ball.camera_from_object[2]).all()
    assert np.isnan(ball.boxes_px[2]).all()
    assert np.isfinite(ball.camera_from_object[[0, 1, 3]]).all()
    assert not (sample.masks[2] == ball.mask_id).any()


def test_grey_images_and_tif_are_read(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, colour="gray", suffix=".tif")
    sample = open_only(tmp_path).load(ALL)
    assert all((image == image[..., :1]).all() for image in sample.images)
    np.testing.assert_array_equal(sample.images[1][..., 0], scene.images[1][..., 1])
    assert reprojection_error_px(sample, scene, ALL) < 0.05


def test_splits_and_targets_are_chosen(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, split="train_pbr", scene_id=0, suffix=".jpg")
    write_bop(tmp_path, scene)
    assert open_dataset("bop", tmp_path).sequence_names == ("test/000048", "train_pbr/000000")
    assert open_dataset("bop", tmp_path, {"split": "train_pbr"}).sequence_names == ("train_pbr/000000",)
    targets = open_dataset("bop", tmp_path, {"targets_only": True})
    assert targets.sequence_names == ("test/000048",)
    assert targets[0].frame_names == ("000036", "001083")
    assert object_error_px(targets[0].load((0, 1)), scene, (1, 3), NAMES) < 1e-3
    with pytest.raises(InputError, match=r"val: no such split; there are test, train_pbr"):
        open_dataset("bop", tmp_path, {"split": "val"})


def test_a_sensor_is_chosen_where_there_are_several(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, sensor="photoneo")
    assert reprojection_error_px(open_only(tmp_path, sensor="photoneo").load(ALL), scene, ALL) < 0.05
    with pytest.raises(InputError, match=r"scene_camera\.json: missing; .* choose one of photoneo"):
        open_only(tmp_path)


def test_a_scene_whose_truth_is_kept_back_has_no_objects(tmp_path):
    folder = write_bop(tmp_path, miniature_scene())
    (folder / "scene_gt.json").unlink()
    sample = open_only(tmp_path).load(ALL)
    assert sample.objects == ()
    assert sample.masks is None


def test_a_lens_that_no_camera_of_ours_has_is_an_error(tmp_path):
    folder = write_bop(tmp_path, miniature_scene())
    cameras = json.loads((folder / "scene_camera.json").read_text())
    del cameras["36"]["cam_K"]
    cameras["36"]["cam_model"] = {"projection_model_type": "CameraModelType.FISHEYE624"}
    (folder / "scene_camera.json").write_text(json.dumps(cameras))
    with pytest.raises(InputError, match=r"scene_camera\.json, image 36: has the lens model"):
        open_only(tmp_path)


class TestBadInput(BadInput):
    def write(self, folder):
        scene = write_bop(folder, miniature_scene())
        images, depths = (tuple(scene / kind / f"{image_id:06d}.png" for image_id in IMAGE_IDS) for kind in ("rgb", "depth"))
        return Copy("bop", folder, "test/000048", images, depths, annotations=(scene / "scene_camera.json",))

    def no_rotation(self, copy):
        scene = write_bop(copy.root, miniature_scene(), rotation_scale=1.01)
        return f"{scene / 'scene_gt.json'}, image {IMAGE_IDS[1]}, entry 0"

    def no_frames(self, copy):
        path = copy.root / copy.sequence / "scene_camera.json"
        path.write_text("{}")
        return path

    @pytest.mark.parametrize("name", ["scene_gt.json", "scene_gt_info.json", "../../models/models_info.json"])
    def test_damaged_ground_truth_is_named(self, tmp_path, name):
        copy = self.write(tmp_path)
        path = (tmp_path / copy.sequence / name).resolve()
        path.write_text(path.read_text()[:100])
        assert_reported(copy, path.name)

    def test_a_scene_pose_that_is_no_rotation_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = tmp_path / copy.sequence / "scene_camera.json"
        cameras = json.loads(path.read_text())
        cameras["36"]["cam_R_w2c"][4] += 0.1
        path.write_text(json.dumps(cameras))
        assert_reported(copy, f"{path}, image 36")

    @pytest.mark.parametrize("damage", ["missing", "truncated", "other size"])
    def test_a_damaged_mask_is_named(self, tmp_path, damage):
        copy = self.write(tmp_path)
        path = tmp_path / copy.sequence / "mask_visib" / f"{IMAGE_IDS[2]:06d}_000001.png"
        if damage == "missing":
            path.unlink()
        elif damage == "truncated":
            path.write_bytes(path.read_bytes()[:-30])
        else:
            images.write_image(path, np.zeros((60, 80), np.uint8))
        assert_reported(copy, path)

    def test_numbers_that_are_missing_are_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = tmp_path / copy.sequence / "scene_gt.json"
        truth = json.loads(path.read_text())
        del truth["47"][1]["cam_t_m2c"]
        path.write_text(json.dumps(truth))
        assert_reported(copy, f"{path}, image 47, entry 1: 'cam_t_m2c' is missing")

    def test_a_list_of_targets_that_is_damaged_is_named(self, tmp_path):
        self.write(tmp_path)
        path = tmp_path / "test_targets_bop19.json"
        path.write_text("[{")
        with pytest.raises(InputError, match=r"test_targets_bop19\.json"):
            open_dataset("bop", tmp_path, {"targets_only": True})
