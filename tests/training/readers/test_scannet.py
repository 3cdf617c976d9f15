import cv2
import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy
from tests.support.miniatures.scannet import COLOUR, LOST_FRAME, colour_scene, write_scannet
from tests.support.miniatures.scene import assert_jpegs_of, depth_error_px, reprojection_error_px

from perception.core.errors import InputError
from perception.io import images
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)
POSED = (0, 1, 3)


def test_a_scene_gives_the_frames_with_colour_intrinsics(tmp_path):
    write_scannet(tmp_path)
    dataset = open_dataset("scannet", tmp_path)
    assert dataset.sequence_names == ("scene0000_00",)
    sample = dataset[0].load(ALL)
    assert_jpegs_of(sample.images, colour_scene().images)
    assert sample.unit == "metre"
    for value, truth in zip(vars(sample.cameras[0]).values(), vars(COLOUR).values(), strict=False):
        assert value == pytest.approx(truth) if isinstance(truth, float) else value == truth


def test_depth_is_registered_to_the_colour_pixels(tmp_path):
    write_scannet(tmp_path)
    sample = open_dataset("scannet", tmp_path)[0].load(POSED)
    assert sample.depth_m[0].shape == (COLOUR.height, COLOUR.width)
    assert depth_error_px(sample, colour_scene(), POSED) < 0.5
    assert reprojection_error_px(without_depth(sample), colour_scene(), POSED) < 0.05


def without_depth(sample):
    object.__setattr__(sample, "depth_m", None)
    return sample


def test_depth_zero_is_unknown(tmp_path):
    write_scannet(tmp_path)
    depth = open_dataset("scannet", tmp_path)[0].load([0]).depth_m[0]
    column, row = (
        round((value - centre) * focal + to)
        for value, centre, focal, to in ((152, 159.75, 585.4 / 288.9, 323.2), (102, 119.75, 586.9 / 289.4, 242.9))
    )
    assert depth[row, column] == 0
    assert depth[row, column + 20] > 0


def test_a_lost_pose_is_unknown(tmp_path):
    write_scannet(tmp_path)
    sequence = open_dataset("scannet", tmp_path)[0]
    np.testing.assert_array_equal(np.isnan(sequence.world_from_camera).all((1, 2)), [frame == LOST_FRAME for frame in ALL])


def test_scenes_are_those_of_the_split_file(tmp_path):
    write_scannet(tmp_path / "scans", "scene0000_00")
    write_scannet(tmp_path / "scans", "scene0001_00")
    assert open_dataset("scannet", tmp_path / "scans").sequence_names == ("scene0000_00", "scene0001_00")
    assert open_dataset("scannet", tmp_path / "scans" / "scene0001_00").sequence_names == ("scene0001_00",)
    (tmp_path / "val.txt").write_text("scene0001_00\nscene0002_00\n")
    split = open_dataset("scannet", tmp_path / "scans", {"split_file": str(tmp_path / "val.txt")})
    assert split.sequence_names == ("scene0001_00", "scene0002_00")
    with pytest.raises(InputError, match=r"scans/scene0002_00: no such folder"):
        split.open_sequence("scene0002_00")


def test_images_exported_smaller_than_their_intrinsics_are_an_error(tmp_path):
    folder = write_scannet(tmp_path)
    for path in (folder / "color").iterdir():
        images.write_image(path, cv2.resize(images.read_image(path), (320, 240)))
    with pytest.raises(InputError, match=r"intrinsic_color\.txt: principal point .* is far from the middle of .*0\.jpg, which is 320x240"):
        open_dataset("scannet", tmp_path)[0]


class TestBadInput(BadInput):
    def write(self, folder):
        scene = write_scannet(folder)
        files = {kind: tuple(scene / kind / f"{frame}{suffix}" for frame in ALL) for kind, suffix in (("color", ".jpg"), ("depth", ".png"))}
        annotations = (scene / "pose" / "1.txt", scene / "intrinsic" / "intrinsic_color.txt", scene / "intrinsic" / "intrinsic_depth.txt")
        return Copy("scannet", folder, scene.name, files["color"], files["depth"], annotations)

    def no_rotation(self, copy):
        np.savetxt(copy.annotations[0], np.diag([1.0, -1.0, 1.0, 1.0]))
        return copy.annotations[0]

    def no_frames(self, copy):
        for path in copy.images:
            path.unlink()
        return copy.images[0].parent
