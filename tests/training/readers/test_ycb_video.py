import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy, assert_reported
from tests.support.miniatures.bop import write_bop
from tests.support.miniatures.objects import BOUNDS, object_error_px, reprojection_error_through_object_px
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px
from tests.support.miniatures.ycb_toolbox import CLASSES, write_ycb_toolbox

from perception.core.errors import InputError
from perception_training.data.readers import open_dataset
from perception_training.data.sample import ObjectTrack

ALL = (0, 1, 2, 3)
NAMES = {"003_cracker_box": "box", "061_foam_brick": "ball"}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_video_gives_its_frames_in_metres(tmp_path, suffix):
    scene = miniature_scene()
    write_ycb_toolbox(tmp_path, scene, suffix=suffix)
    sequence = open_dataset("ycb_video", tmp_path)[0]
    assert (sequence.name, sequence.frame_names) == ("0048", ("000001", "000002", "000003", "000004"))
    np.testing.assert_allclose(sequence.world_from_camera, scene.world_from_camera, atol=1e-9)
    sample = sequence.load(ALL)
    for frame in ALL:
        assert np.abs(sample.images[frame].astype(int) - scene.images[frame]).mean() < (15 if suffix == ".jpg" else 1e-9)
        np.testing.assert_allclose(sample.depth_m[frame], scene.depth_m[frame], atol=6e-5)
    assert reprojection_error_px(sample, scene, ALL) < 0.05


def test_poses_and_labels_of_the_objects_fit_the_scene(tmp_path):
    scene = miniature_scene()
    write_ycb_toolbox(tmp_path, scene, without_ball_in=(2,))
    sample = open_dataset("ycb_video", tmp_path)[0].load((3, 1))
    assert [item.name for item in sample.objects] == list(NAMES)
    for item in sample.objects:
        bounded = ObjectTrack(item.name, item.camera_from_object, item.mask_id, BOUNDS[NAMES[item.name]])
        assert reprojection_error_through_object_px(sample, scene, (3, 1), bounded) < 0.05
        assert item.mesh == tmp_path / "models" / item.name / "textured.obj"
        for index, frame in enumerate((3, 1)):
            truth = scene.masks[frame] == {"box": 1, "ball": 2}[NAMES[item.name]]
            np.testing.assert_array_equal(sample.masks[index] == CLASSES[NAMES[item.name]][1], truth)
    alone = open_dataset("ycb_video", tmp_path)[0].load((2, 0))
    ball = next(item for item in alone.objects if NAMES[item.name] == "ball")
    assert np.isnan(ball.camera_from_object[0]).all()
    assert np.isfinite(ball.camera_from_object[1]).all()


def test_splits_and_keyframes_are_chosen(tmp_path):
    scene = miniature_scene()
    write_ycb_toolbox(tmp_path, scene, "0003")
    write_ycb_toolbox(tmp_path, scene, "0048")
    names = {split: open_dataset("ycb_video", tmp_path, {"split": split}).sequence_names for split in ("", "train", "test")}
    assert names == {"": ("0003", "0048"), "train": ("0003",), "test": ("0048",)}
    keyframes = open_dataset("ycb_video", tmp_path, {"keyframes_only": True})
    assert keyframes.sequence_names == ("0048",)
    assert keyframes[0].frame_names == ("000002", "000004")
    with pytest.raises(InputError, match="must be train or test"):
        open_dataset("ycb_video", tmp_path, {"split": "train_pbr"})
    (tmp_path / "image_sets" / "keyframe.txt").write_text("0048 000001\n")
    with pytest.raises(InputError, match=r"keyframe\.txt: line '0048 000001'"):
        open_dataset("ycb_video", tmp_path, {"keyframes_only": True})


def test_the_bop_form_is_the_same_data_set(tmp_path):
    scene = miniature_scene()
    write_bop(tmp_path, scene, split="train_real", scene_id=0)
    write_bop(tmp_path, scene, split="test", scene_id=48)
    everything = open_dataset("ycb_video", tmp_path)
    assert everything.sequence_names == ("test/000048", "train_real/000000")
    sample = everything[0].load(ALL)
    assert sample.dataset == "ycb_video"
    assert reprojection_error_px(sample, scene, ALL) < 0.05
    keyframes = open_dataset("ycb_video", tmp_path, {"keyframes_only": True})[0]
    assert keyframes.frame_names == ("000036", "001083")
    assert object_error_px(keyframes.load((0, 1)), scene, (1, 3), {"obj_000007": "box", "obj_000002": "ball"}) < 1e-3


class TestBadInput(BadInput):
    def write(self, folder):
        video = write_ycb_toolbox(folder, miniature_scene())
        paths = {kind: tuple(video / f"{frame + 1:06d}-{kind}.png" for frame in ALL) for kind in ("color", "depth")}
        return Copy("ycb_video", folder, "0048", paths["color"], paths["depth"], annotations=(video / "000003-meta.mat",))

    def no_rotation(self, copy):
        return f"{write_ycb_toolbox(copy.root, miniature_scene(), rotation_scale=1.01) / '000002-meta.mat'}, pose of class 21"

    def no_frames(self, copy):
        for path in (copy.root / "data" / "0048").iterdir():
            path.unlink()
        return "ycb_video/0048"

    def test_a_meta_file_that_is_cut_off_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = copy.annotations[0]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert_reported(copy, path)

    def test_a_truncated_label_image_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = tmp_path / "data" / "0048" / "000002-label.png"
        path.write_bytes(path.read_bytes()[:60])
        assert_reported(copy, path)

    def test_a_video_whose_folder_is_gone_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        with pytest.raises(InputError, match="0049: no such folder"):
            open_dataset("ycb_video", copy.root).open_sequence("0049")
