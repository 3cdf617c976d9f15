import cv2
import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy
from tests.support.closeness import DATA
from tests.support.miniatures.scene import assert_jpegs_of, depth_error_px, reprojection_error_px
from tests.support.miniatures.seven_scenes import COLOUR, colour_scene, write_frames, write_seven_scenes

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.camera import depth_to_points, project
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2)
FLAT_FOLDERS = sorted(path.parent for path in DATA.glob("*/frame-000000.pose.txt"))


def test_a_sequence_gives_the_frames_of_the_scene_with_depth_at_colour_pixels(tmp_path):
    write_seven_scenes(tmp_path)
    sequence = open_dataset("seven_scenes", tmp_path).open_sequence("chess/seq-01")
    assert sequence.frame_names == ("frame-000000", "frame-000001", "frame-000002")
    sample = sequence.load(ALL)
    for image, truth in zip(sample.images, colour_scene().images, strict=True):
        np.testing.assert_array_equal(image, truth)
    assert sample.unit == "metre"
    assert sample.cameras == (COLOUR,) * 3
    inside = colour_scene().depth_m[0][40:440, 60:580]
    found = sample.depth_m[0][40:440, 60:580]
    both = (inside > 0) & (found > 0)
    assert both.sum() > 0.99 * (inside > 0).sum()
    assert np.quantile(np.abs(inside - found)[both], 0.95) < 0.005
    without_depth = sequence.load(ALL)
    object.__setattr__(without_depth, "depth_m", None)
    assert reprojection_error_px(without_depth, colour_scene(), ALL) < 0.01


def test_depth_lifts_colour_pixels_to_where_other_frames_see_them(tmp_path):
    write_seven_scenes(tmp_path)
    sample = open_dataset("seven_scenes", tmp_path).open_sequence("chess/seq-01").load(ALL)
    assert depth_error_px(sample, colour_scene(), ALL) < 0.5


def test_depth_of_zero_and_65535_is_unknown(tmp_path):
    write_seven_scenes(tmp_path)
    depth = open_dataset("seven_scenes", tmp_path).open_sequence("chess/seq-01").load([0]).depth_m[0]
    assert depth.max() < 10
    row = 240 + round((205 - 240) * 525 / 585)
    for column in (305, 335):
        assert depth[row, 320 + round((column - 320) * 525 / 585)] == 0
    assert depth[row, 320] > 0


def test_splits_are_the_official_ones(tmp_path):
    write_seven_scenes(tmp_path)
    assert open_dataset("seven_scenes", tmp_path).sequence_names == ("chess/seq-01", "chess/seq-02")
    assert open_dataset("seven_scenes", tmp_path, {"split": "train"}).sequence_names == ("chess/seq-01",)
    test_split = open_dataset("seven_scenes", tmp_path, {"split": "test", "scenes": ["chess"]})
    assert test_split.sequence_names == ("chess/seq-02", "chess/seq-10")
    with pytest.raises(InputError, match=r"chess/seq-10: no such folder"):
        test_split.open_sequence("chess/seq-10")
    assert open_dataset("seven_scenes", tmp_path / "chess").sequence_names == ("seq-01", "seq-02")
    with pytest.raises(InputError, match=r"no scene 'fire'; there are chess"):
        open_dataset("seven_scenes", tmp_path, {"scenes": ["fire"]})
    (tmp_path / "chess" / "TestSplit.txt").write_text("first sequence\n")
    with pytest.raises(InputError, match=r"chess/TestSplit\.txt: line 'first sequence'"):
        open_dataset("seven_scenes", tmp_path, {"split": "test"})


def test_a_flat_folder_is_one_sequence(tmp_path):
    write_frames(tmp_path / "kitchen", intrinsics=True, suffix=".jpg")
    dataset = open_dataset("seven_scenes", tmp_path / "kitchen")
    assert dataset.sequence_names == ("kitchen",)
    sample = dataset[0].load(ALL)
    assert_jpegs_of(sample.images, colour_scene().images)
    assert sample.cameras == (COLOUR,) * 3
    assert open_dataset("seven_scenes", tmp_path / "kitchen", {"colour_focal_px": 540.0})[0].load([0]).cameras[0].fx == 540.0


class TestBadInput(BadInput):
    def write(self, folder):
        write_seven_scenes(folder)
        sequence = folder / "chess" / "seq-01"
        images, depths, poses = (tuple(sequence / f"frame-{frame:06d}.{kind}" for frame in ALL) for kind in ("color.png", "depth.png", "pose.txt"))
        return Copy("seven_scenes", folder, "chess/seq-01", images, depths, poses[1:2])

    def no_rotation(self, copy):
        path = copy.annotations[0]
        np.savetxt(path, np.diag([1.0, 1.2, 1.0, 1.0]))
        return path

    def no_frames(self, copy):
        folder = copy.images[0].parent
        for path in folder.iterdir():
            path.unlink()
        return folder


@pytest.mark.data
@pytest.mark.skipif(not FLAT_FOLDERS, reason="no flat folders of posed frames in PERCEPTION_DATA")
@pytest.mark.parametrize("folder", FLAT_FOLDERS, ids=lambda path: path.name)
class TestRealFrames:
    def test_all_frames_have_records_with_poses_and_depth(self, folder):
        sequence = open_dataset("seven_scenes", folder)[0]
        assert len(sequence) == len(list(folder.glob("*.pose.txt")))
        assert np.isfinite(sequence.world_from_camera).all()
        assert all(record.read_depth is not None for record in sequence.records)
        steps = np.linalg.norm(np.diff(sequence.world_from_camera[:, :3, 3], axis=0), axis=1)
        assert steps.max() < 0.1

    def test_depth_and_poses_of_neighbours_agree_to_millimetres(self, folder):
        """README of the data: poses and depth agree to 4-12 mm."""
        sequence = open_dataset("seven_scenes", folder)[0]
        for gap, limit_m in ((1, 0.006), (10, 0.012)):
            medians = [np.median(np.abs(compared(sequence.load([first, first + gap]))[0])) for first in range(0, len(sequence) - gap, 12)]
            assert np.median(medians) < limit_m

    def test_colours_of_neighbours_agree_better_with_the_colour_focal_length_than_with_that_of_depth(self, folder):
        registered, unregistered = [], []
        for focal_px, errors in ((525.0, registered), (585.0, unregistered)):
            sequence = open_dataset("seven_scenes", folder, {"colour_focal_px": focal_px})[0]
            for first in range(0, len(sequence) - 15, 15):
                errors.append(np.median(compared(sequence.load([first, first + 15]))[1]))
        assert np.mean(registered) < np.mean(unregistered)


def compared(sample):
    """Pixels of frame 0 sent to frame 1 by depth and poses: difference of depth in m, and of brightness in grey levels."""
    b_from_a = np.linalg.inv(sample.world_from_camera[1]) @ sample.world_from_camera[0]
    points = se3.transform_points(b_from_a, depth_to_points(sample.depth_m[0].astype(float), sample.cameras[0]))
    pixels = project(points, sample.cameras[1]).astype(np.float32)
    there = cv2.remap(sample.depth_m[1], pixels[..., 0], pixels[..., 1], cv2.INTER_NEAREST, borderValue=0)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in sample.images]
    brightness = cv2.remap(grey[1], pixels[..., 0], pixels[..., 1], cv2.INTER_LINEAR, borderValue=-1000)
    seen = (there > 0) & (np.abs(there - points[..., 2]) < 0.1)
    assert seen.mean() > 0.3
    return (there - points[..., 2])[seen], np.abs(brightness - grey[0])[seen]
