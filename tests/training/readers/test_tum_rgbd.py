import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy
from tests.support.closeness import assert_close
from tests.support.miniatures.scene import reprojection_error_px
from tests.support.miniatures.tum_rgbd import CAMERAS, time_of, tum_scene, write_tum_rgbd

from perception_training.data.readers import open_dataset
from perception_training.data.readers.tum_rgbd import associate

SEQUENCE = "rgbd_dataset_freiburg3_desk"


def only(root, **options):
    return open_dataset("tum_rgbd", root, options)[0]


@pytest.mark.parametrize(
    ("folder", "camera"), [("rgbd_dataset_freiburg3_desk", "freiburg3"), ("rgbd_dataset_freiburg2_xyz", "freiburg2"), ("my_recording", "default")]
)
def test_a_sequence_gives_the_frames_of_the_scene(tmp_path, folder, camera):
    write_tum_rgbd(tmp_path / folder, camera)
    sequence = only(tmp_path)
    sample = sequence.load((0, 1, 2))
    for image, truth in zip(sample.images, tum_scene(camera).images, strict=False):
        np.testing.assert_array_equal(image, truth)
    assert sample.cameras[0] == CAMERAS[camera]
    assert_close(sample.times_s, np.array([time_of(frame) for frame in (0, 1, 2)]), atol=1e-5)
    assert sample.unit == "metre"
    assert reprojection_error_px(sequence.load((0, 2)), tum_scene(camera), (0, 2)) < 0.5
    assert_close(sample.depth_m[0][300:], tum_scene(camera).depth_m[0][300:], atol=2e-4)


def test_depth_and_poses_that_are_too_far_in_time_are_unknown(tmp_path):
    write_tum_rgbd(tmp_path / SEQUENCE)
    sample = only(tmp_path).load((0, 1, 2, 3))
    np.testing.assert_array_equal(sample.has_pose, [True, True, True, False])
    assert [bool(depth.any()) for depth in sample.depth_m] == [True, False, True, True]
    later = only(tmp_path, max_time_difference_s=0.022).load((0, 1, 2, 3))
    assert all(depth.any() for depth in later.depth_m)


def test_depth_zero_is_unknown(tmp_path):
    write_tum_rgbd(tmp_path / SEQUENCE)
    depth = only(tmp_path).load([0]).depth_m[0]
    assert not depth[200:210, 300:310].any()
    assert depth[199, 305] > 0


def test_times_are_joined_one_to_one_by_the_nearest():
    times, others = np.array([0.0, 0.010, 0.5]), np.array([0.008, 0.021, 0.9])
    np.testing.assert_array_equal(associate(times, others, 0.02), [-1, 0, -1])  # 0.0 could only have 0.008, which is nearer to 0.010
    np.testing.assert_array_equal(associate(times, np.array([0.012, 0.0121]), 0.02), [1, 0, -1])
    np.testing.assert_array_equal(associate(times, np.zeros(0), 0.02), [-1, -1, -1])


def test_a_folder_that_is_a_sequence_is_one_and_a_validation_sequence_has_no_poses(tmp_path):
    folder = write_tum_rgbd(tmp_path / "rgbd_dataset_freiburg3_desk_validation")
    (folder / "groundtruth.txt").unlink()
    dataset = open_dataset("tum_rgbd", folder)
    assert dataset.sequence_names == ("rgbd_dataset_freiburg3_desk_validation",)
    assert dataset[0].world_from_camera is None


class TestBadInput(BadInput):
    def write(self, folder):
        sequence = write_tum_rgbd(folder / SEQUENCE)
        images, depths = (tuple(sorted((sequence / kind).iterdir())) for kind in ("rgb", "depth"))
        annotations = tuple(sequence / f"{name}.txt" for name in ("rgb", "depth", "groundtruth"))
        return Copy("tum_rgbd", folder, SEQUENCE, images, depths[1:], annotations)

    def no_rotation(self, copy):
        path = copy.annotations[2]
        path.write_text(path.read_text() + f"{time_of(3):.4f} 0 0 0 0 0 0 0\n")
        return path

    def no_frames(self, copy):
        copy.annotations[0].write_text("# color images\n")
        return copy.annotations[0]
