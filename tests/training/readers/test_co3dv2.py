import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy, assert_reported
from tests.support.closeness import assert_close
from tests.support.miniatures.co3dv2 import SEQUENCE, write_annotations, write_co3dv2
from tests.support.miniatures.scene import assert_jpegs_of, miniature_scene, reprojection_error_px

from perception.core.errors import InputError
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)
NAME = f"apple/{SEQUENCE}"


@pytest.mark.parametrize("kind", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_a_sequence_gives_the_frames_of_the_scene(tmp_path, kind):
    write_co3dv2(tmp_path, miniature_scene(), kind=kind)
    dataset = open_dataset("co3dv2", tmp_path)
    assert dataset.sequence_names == (NAME,)
    sample = dataset[0].load(ALL)
    assert sample.frame_names == ("frame000001", "frame000002", "frame000003", "frame000004")
    assert (sample.text, sample.unit) == ("apple", "arbitrary")
    assert_jpegs_of(sample.images, miniature_scene().images)
    assert_close(sample.times_s, np.array([0.0, 0.25, 0.5, 0.75]))
    assert_close(sample.cameras[0].matrix, miniature_scene().cameras[0].matrix)
    assert reprojection_error_px(sample, miniature_scene(), ALL) < 0.5


def test_depth_is_half_floats_times_scale_and_masks_are_the_likely_foreground(tmp_path):
    write_co3dv2(tmp_path, miniature_scene())
    sample = open_dataset("co3dv2", tmp_path)[0].load(ALL)
    for frame in ALL:
        known = sample.depth_m[frame] > 0
        assert_close(sample.depth_m[frame][known], miniature_scene().depth_m[frame][known], rtol=1e-3)
        np.testing.assert_array_equal(sample.masks[frame], (miniature_scene().masks[frame] > 0).astype(np.int32))


def test_depth_that_is_not_finite_or_masked_is_unknown(tmp_path):
    write_co3dv2(tmp_path, miniature_scene())
    depth = open_dataset("co3dv2", tmp_path)[0].load([0]).depth_m[0]
    assert not depth[:4, :8].any()
    assert not depth[-6:, -6:].any()
    unmasked = open_dataset("co3dv2", tmp_path, {"use_depth_masks": False})[0].load([0]).depth_m[0]
    assert unmasked[-6:, -6:].all()


def test_set_lists_choose_sequences_and_frames(tmp_path):
    write_co3dv2(tmp_path, miniature_scene())
    write_co3dv2(tmp_path, miniature_scene(), category="pear")
    (tmp_path / "pear" / "set_lists" / "set_lists_fewview_dev.json").unlink()
    assert len(open_dataset("co3dv2", tmp_path)) == 2
    assert open_dataset("co3dv2", tmp_path, {"categories": ["pear"]}).sequence_names == (f"pear/{SEQUENCE}",)
    for split, names in (("train", ["000001", "000002"]), ("val", ["000003"]), ("all", ["000001", "000002", "000003", "000004"])):
        dataset = open_dataset("co3dv2", tmp_path, {"subset": "fewview_dev", "split": split})
        assert dataset.sequence_names == (NAME,)
        assert dataset[0].frame_names == tuple(f"frame{name}" for name in names)


def test_options_that_fit_no_copy_are_errors(tmp_path):
    write_co3dv2(tmp_path, miniature_scene())
    with pytest.raises(InputError, match=r"no category 'pear'; there are apple"):
        open_dataset("co3dv2", tmp_path, {"categories": ["pear"]})
    with pytest.raises(InputError, match=r"option subset must name one"):
        open_dataset("co3dv2", tmp_path, {"split": "train"})
    with pytest.raises(InputError, match=r"holds no sequences"):
        open_dataset("co3dv2", tmp_path, {"subset": "manyview_dev_0"})


class TestBadInput(BadInput):
    def write(self, folder):
        category = write_co3dv2(folder, miniature_scene())
        images = tuple(category / SEQUENCE / "images" / f"frame{frame + 1:06d}.jpg" for frame in ALL)
        depths = tuple(category / SEQUENCE / "depths" / f"frame{frame + 1:06d}.jpg.geometric.png" for frame in ALL)
        return Copy("co3dv2", folder, NAME, images, depths, tuple(category / f"{kind}_annotations.jgz" for kind in ("frame", "sequence")))

    def no_rotation(self, copy):
        write_co3dv2(copy.root, miniature_scene(), pose_stretch=1.5)
        return f"{copy.annotations[0]}: sequence {SEQUENCE}, frame 10"

    def no_frames(self, copy):
        write_annotations(copy.root / "apple", [])
        return copy.annotations[0]


def test_masks_that_are_damaged_or_of_another_size_are_named(tmp_path):
    copy = TestBadInput().write(tmp_path)
    folder = tmp_path / "apple" / SEQUENCE
    for kind in ("masks", "depth_masks"):
        path = folder / kind / "frame000002.png"
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        assert_reported(copy, path)
        path.write_bytes(good)


def test_a_set_list_that_is_damaged_is_named(tmp_path):
    write_co3dv2(tmp_path, miniature_scene())
    path = tmp_path / "apple" / "set_lists" / "set_lists_fewview_dev.json"
    path.write_text('{"train": [["a", "b"]], "val": [], "test": []}')
    with pytest.raises(InputError, match=r"set_lists_fewview_dev\.json: train holds"):
        open_dataset("co3dv2", tmp_path, {"subset": "fewview_dev"})
