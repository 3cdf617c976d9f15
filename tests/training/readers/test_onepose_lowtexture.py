import shutil

import cv2
import numpy as np
import pytest
from tests.support.bad_input import RUBBISH, BadInput, Copy, assert_reported
from tests.support.miniatures.objects import BOUNDS, corners, object_error_px, true_corners_px
from tests.support.miniatures.onepose import CROP_PX, crop_from_full, frame_number, write_onepose
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.camera import project
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)
FIRST, LAST = "0700-woodbox-others/woodbox-1", "0700-woodbox-others/woodbox-2"


def test_crops_have_the_intrinsics_of_the_crop(tmp_path):
    scene = miniature_scene()
    write_onepose(tmp_path, scene)
    sequence = open_dataset("onepose_lowtexture", tmp_path).open_sequence(FIRST)
    assert sequence.frame_names == tuple(str(frame_number(frame)) for frame in ALL)
    sample = sequence.load(ALL)
    [item] = sample.objects
    np.testing.assert_allclose(item.bounds, BOUNDS["box"], atol=1e-9)
    assert item.name == sample.text == "woodbox"
    for frame in ALL:
        assert sample.images[frame].shape == (CROP_PX, CROP_PX, 3)
        full = np.concatenate([true_corners_px(scene, "box", frame), np.ones((8, 1))], axis=1)
        expected = (full @ crop_from_full(scene, frame).T)[:, :2]
        found = project(se3.transform_points(item.camera_from_object[frame], corners(item.bounds)), sample.cameras[frame])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        through_world = se3.inverse(sample.world_from_camera[frame])
        np.testing.assert_allclose(through_world, item.camera_from_object[frame], atol=1e-9)


def test_the_crop_shows_what_its_camera_says(tmp_path):
    scene = miniature_scene()
    write_onepose(tmp_path, scene)
    sample = open_dataset("onepose_lowtexture", tmp_path)[0].load(ALL)
    points = np.random.default_rng(0).uniform(*BOUNDS["box"], size=(40, 3))
    for frame in ALL:
        pose = sample.objects[0].camera_from_object[frame]
        in_crop = project(se3.transform_points(pose, points), sample.cameras[frame]).astype(np.float32)
        in_full = project(se3.transform_points(scene.camera_from_object("box")[frame], points), scene.cameras[frame]).astype(np.float32)
        crop, full = (
            cv2.remap(image, px[None, :, 0], px[None, :, 1], cv2.INTER_LINEAR)[0].astype(float)
            for image, px in ((sample.images[frame], in_crop), (scene.images[frame], in_full))
        )
        assert np.abs(crop - full).mean() < 12


@pytest.mark.parametrize("unpacked", [True, False])
def test_whole_frames_reproject_with_the_object_as_world(tmp_path, unpacked):
    scene = miniature_scene()
    write_onepose(tmp_path, scene, unpacked=unpacked)
    sample = open_dataset("onepose_lowtexture", tmp_path, {"frames_of": "full"})[0].load((3, 0, 1, 2))
    assert reprojection_error_px(sample, scene, (3, 0, 1, 2)) < 1e-3
    assert object_error_px(sample, scene, (3, 0, 1, 2), {"woodbox": "box"}) < 1e-3
    for image, frame in zip(sample.images, (3, 0, 1, 2), strict=True):
        assert np.abs(image.astype(int) - scene.images[frame]).mean() < (1e-9 if unpacked else 25)  # the neighbours in the video are black


def test_the_first_sequence_is_the_reference_and_the_last_the_query(tmp_path):
    folder = write_onepose(tmp_path, miniature_scene(), (1, 2, 10))
    names = [f"{folder.name}/woodbox-{number}" for number in (1, 2, 10)]
    roles = {role: open_dataset("onepose_lowtexture", tmp_path, {"role": role}).sequence_names for role in ("all", "reference", "query")}
    assert roles == {"all": tuple(names), "reference": (names[0],), "query": (names[2],)}
    dataset = open_dataset("onepose_lowtexture", folder.parent)  # the folder of objects itself
    assert [dataset[index].attributes["role"] for index in range(3)] == ["reference", "other", "query"]


class TestBadInput(BadInput):
    def write(self, folder):
        sequence = write_onepose(folder, miniature_scene()) / "woodbox-1"
        images = tuple(sequence / "color" / f"{frame_number(frame)}.png" for frame in ALL)
        annotations = (sequence / "intrin_ba" / "5.txt", sequence / "poses_ba" / "10.txt", sequence.parent / "box3d_corners.txt")
        return Copy("onepose_lowtexture", folder, FIRST, images, annotations=annotations)

    def no_rotation(self, copy):
        return write_onepose(copy.root, miniature_scene(), rotation_scale=1.01) / "woodbox-1" / "poses_ba" / "5.txt"

    def no_frames(self, copy):
        folder = copy.images[0].parent.parent
        for name in ("color", "poses_ba"):
            shutil.rmtree(folder / name)
        return folder

    @pytest.mark.parametrize("damage", [RUBBISH, b"fx: 10\nfy: many\n", b"fx: 10\nfy: 10\ncx: 5\n", b"fx: -1\nfy: 10\ncx: 5\ncy: 5"])
    def test_damaged_intrinsics_of_whole_frames_are_named(self, tmp_path, damage):
        folder = write_onepose(tmp_path, miniature_scene()) / "woodbox-1"
        (folder / "intrinsics.txt").write_bytes(damage)
        assert_reported(Copy("onepose_lowtexture", tmp_path, FIRST, (), options={"frames_of": "full"}), folder / "intrinsics.txt")

    def test_a_whole_frame_that_is_missing_is_named(self, tmp_path):
        folder = write_onepose(tmp_path, miniature_scene()) / "woodbox-1"
        (folder / "color_full" / "5.png").unlink()
        assert_reported(Copy("onepose_lowtexture", tmp_path, FIRST, (), options={"frames_of": "full"}), folder / "color_full" / "5.png")

    def test_a_video_that_ends_before_an_annotated_frame_is_named(self, tmp_path):
        folder = write_onepose(tmp_path, miniature_scene(), unpacked=False) / "woodbox-1"
        (folder / "poses_ba" / "5.txt").rename(folder / "poses_ba" / "999.txt")
        (folder / "color" / "5.png").rename(folder / "color" / "999.png")
        copy = Copy("onepose_lowtexture", tmp_path, FIRST, (), options={"frames_of": "full"})
        assert_reported(copy, f"{folder / 'Frames.m4v'}: frame 999 is not there")
        (folder / "Frames.m4v").unlink()
        assert_reported(copy, folder / "Frames.m4v")

    def test_corners_that_are_no_numbers_are_named(self, tmp_path):
        folder = write_onepose(tmp_path, miniature_scene())
        np.savetxt(folder / "box3d_corners.txt", np.full((8, 3), np.nan))
        with pytest.raises(InputError, match=r"box3d_corners\.txt: holds NaN"):
            open_dataset("onepose_lowtexture", tmp_path)[0]
