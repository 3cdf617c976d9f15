import json
from types import MappingProxyType

import cv2
import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy, assert_reported
from tests.support.closeness import assert_close
from tests.support.miniatures.dl3dv import CAMERA, dl3dv_scene, write_dl3dv
from tests.support.miniatures.scene import reprojection_error_px

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.camera import project
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)
HASH = "0a1b2c3d"


def open_scene(root, **options):
    return open_dataset("dl3dv", root, options)[0]


def test_a_scene_gives_the_frames_with_intrinsics_scaled_from_full_size(tmp_path):
    write_dl3dv(tmp_path / "1K" / HASH)
    assert open_dataset("dl3dv", tmp_path).sequence_names == (f"1K/{HASH}",)
    sample = open_scene(tmp_path).load(ALL)
    assert sample.frame_names == ("frame_00001", "frame_00002", "frame_00003", "frame_00004")
    assert sample.unit == "arbitrary"
    for image, truth in zip(sample.images, dl3dv_scene().images, strict=True):
        np.testing.assert_array_equal(image, truth)
    assert_close(sample.cameras[0].matrix, CAMERA.matrix)
    assert sample.cameras[0].distortion == CAMERA.distortion
    assert reprojection_error_px(sample, dl3dv_scene(), ALL) < 1e-3


def test_the_resized_variant_squeezes_image_and_intrinsics(tmp_path):
    write_dl3dv(tmp_path)
    sample = open_scene(tmp_path, variant="resize", size_px=96).load(ALL)
    assert sample.images[0].shape == (96, 96, 3)
    np.testing.assert_array_equal(sample.images[0], cv2.resize(dl3dv_scene().images[0], (96, 96), interpolation=cv2.INTER_AREA))
    assert reprojection_error_px(sample, dl3dv_scene(), ALL) < 1e-3


def test_the_cropped_variant_shifts_the_principal_point(tmp_path):
    write_dl3dv(tmp_path)
    sample = open_scene(tmp_path, variant="centre_crop", size_px=100).load(ALL)
    np.testing.assert_array_equal(sample.images[1], dl3dv_scene().images[1][17:117, 70:170])
    scene = dl3dv_scene()
    world = sample.world_from_camera[0] @ np.linalg.inv(scene.world_from_camera[0])
    for frame in ALL:
        camera_from_world = np.linalg.inv(sample.world_from_camera[frame])
        found = project(se3.transform_points(camera_from_world @ world, scene.points_world), sample.cameras[frame])
        assert np.abs(found + np.array([70, 17]) - scene.points_px[frame]).max() < 1e-3


def test_scenes_of_the_benchmark_and_a_single_scene_are_found(tmp_path):
    write_dl3dv(tmp_path / "set" / HASH / "nerfstudio", image_folder="images_8")
    (tmp_path / "set" / HASH / "gaussian_splat").mkdir()
    assert open_dataset("dl3dv", tmp_path / "set").sequence_names == (HASH,)
    assert open_dataset("dl3dv", tmp_path / "set" / HASH).sequence_names == (HASH,)
    assert len(open_scene(tmp_path / "set", image_folder="images_8")) == 4
    with pytest.raises(InputError, match=r"nerfstudio/images_4: no such folder; option image_folder"):
        open_scene(tmp_path / "set")


def test_cameras_and_crops_that_do_not_fit_are_errors(tmp_path):
    path = write_dl3dv(tmp_path)
    with pytest.raises(InputError, match=r"frame_00004\.png is 240x135: too small to cut out 224x224; option size_px must be at most 135"):
        open_scene(tmp_path, variant="centre_crop")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "camera_model": "OPENCV_FISHEYE"}))
    with pytest.raises(InputError, match=r"transforms\.json: camera_model = 'OPENCV_FISHEYE': must be one of OPENCV"):
        open_scene(tmp_path)
    path.write_text(json.dumps({**content, "w": 2160, "h": 3840}))
    with pytest.raises(InputError, match=r"is 240x135 but its intrinsics in .*transforms\.json are for 2160x3840"):
        open_scene(tmp_path)


class TestBadInput(BadInput):
    options = MappingProxyType({})

    def write(self, folder):
        path = write_dl3dv(folder / HASH)
        images = tuple(folder / HASH / "images_4" / f"frame_{frame + 1:05d}.png" for frame in ALL)
        return Copy("dl3dv", folder, HASH, images, annotations=(path,), options=self.options)

    def no_rotation(self, copy):
        return f"{write_dl3dv(copy.root / HASH, pose_stretch=1.1)}: frame frame_00002.png"

    def no_frames(self, copy):
        copy.annotations[0].write_text(json.dumps({**json.loads(copy.annotations[0].read_text()), "frames": []}))
        return copy.annotations[0]

    def test_an_entry_that_is_missing_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        content = json.loads(copy.annotations[0].read_text())
        del content["fl_x"]
        copy.annotations[0].write_text(json.dumps(content))
        assert_reported(copy, f"{copy.annotations[0]}: 'fl_x' is missing")


class TestBadInputOfTheCrop(TestBadInput):
    options = MappingProxyType({"variant": "centre_crop", "size_px": 64})
