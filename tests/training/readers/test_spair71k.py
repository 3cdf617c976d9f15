import json

import numpy as np
import pytest
from tests.support.bad_input import RUBBISH, BadInput, Copy, assert_reported
from tests.support.miniatures.keypoints import SOURCE, TARGET, pair_truth
from tests.support.miniatures.scene import miniature_scene
from tests.support.miniatures.spair71k import CATEGORY, CLASS_ID, DIFFICULTY, PAIR, STEMS, clicked, write_spair71k

from perception.core.errors import ConfigError, InputError
from perception.geometry import se3
from perception.geometry.camera import project
from perception_training.data.readers import open_dataset


@pytest.fixture
def copy(tmp_path):
    truth = pair_truth()
    write_spair71k(tmp_path, truth)
    return tmp_path, truth


def test_keypoints_of_a_pair_are_the_projections_of_the_same_points(copy):
    root, truth = copy
    sample = open_dataset("spair71k", root)[0].load((0, 1))
    rows = clicked(truth)
    assert len(rows) >= 8
    np.testing.assert_array_less(np.linalg.norm(sample.tracks.points_px - truth.points_px[:, rows], axis=2), 0.5)
    assert sample.tracks.names == tuple(map(str, rows))
    assert sample.tracks.visible.all()
    scene = miniature_scene()
    points = se3.transform_points(np.linalg.inv(scene.world_from_camera[TARGET]), scene.points_world[[int(name) for name in sample.tracks.names]])
    corresponding = project(points, scene.cameras[TARGET].resized(*sample.images[1].shape[1::-1]))
    np.testing.assert_array_less(np.linalg.norm(sample.tracks.points_px[1] - corresponding, axis=1), 0.5)


def test_images_boxes_category_and_difficulty_are_those_of_the_pair(copy):
    root, truth = copy
    sequence = open_dataset("spair71k", root, {"layout": "small"})[0]
    sample = sequence.load((0, 1))
    assert sample.frame_names == STEMS
    assert [image.shape for image in sample.images] == [(120, 160, 3), (240, 320, 3)]
    for image, written in zip(sample.images, truth.images, strict=True):
        assert np.abs(image.astype(int) - written).mean() < 4  # JPEG
    assert sample.text == CATEGORY
    assert sample.attributes == DIFFICULTY | {"mirror": 0}
    np.testing.assert_array_equal(sample.objects[0].boxes_px, truth.boxes_px())
    np.testing.assert_array_equal(sequence.load((1,)).objects[0].boxes_px, truth.boxes_px()[1:])
    assert sample.cameras is None
    assert sample.world_from_camera is None


def test_class_maps_are_palette_indices_without_the_border(copy):
    root, truth = copy
    sample = open_dataset("spair71k", root)[0].load((0, 1))
    assert sample.objects[0].mask_id == CLASS_ID
    for side in (0, 1):
        assert set(np.unique(sample.masks[side])) == {0, CLASS_ID, 11}
        inside = sample.masks[side] == CLASS_ID
        assert inside.any()
        assert (truth.masks[side][inside] == 1).all()


def test_a_copy_without_segmentation_has_no_masks(copy, tmp_path):
    root, _ = copy
    (root / "Segmentation").rename(root / "elsewhere")
    sample = open_dataset("spair71k", root)[0].load((0, 1))
    assert sample.masks is None
    assert sample.objects[0].mask_id == 0


@pytest.mark.parametrize(("options", "count"), [({"viewpoint": "2"}, 1), ({"category": CATEGORY}, 1), ({"category": CATEGORY, "viewpoint": "2"}, 1)])
def test_options_choose_pairs(copy, options, count):
    assert len(open_dataset("spair71k", copy[0], options)) == count


@pytest.mark.parametrize("options", [{"viewpoint": "0"}, {"category": "cat"}])
def test_a_choice_that_leaves_nothing_is_an_error(copy, options):
    with pytest.raises(InputError, match="no sequences"):
        open_dataset("spair71k", copy[0], options)


def test_an_unknown_category_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match="tvmonitor"):
        open_dataset("spair71k", ".", {"category": "sofa"})


class TestBadInput(BadInput):
    test_a_pose_that_is_no_rotation_is_named = None  # the set has no poses

    def write(self, folder):
        annotation = write_spair71k(folder, pair_truth())
        images = tuple(folder / "JPEGImages" / CATEGORY / f"{stem}.jpg" for stem in STEMS)
        return Copy("spair71k", folder, PAIR, images, annotations=(annotation,))

    def no_frames(self, copy):
        path = copy.root / "Layout" / "large" / "test.txt"
        path.write_text("\n")
        return path

    @pytest.mark.parametrize(
        "change",
        [
            {"src_kps": [[400, 20]], "trg_kps": [[4, 2]], "kps_ids": ["0"]},
            {"trg_bndbox": [10, 20, 900, 60]},
            {"src_kps": [[4, 20, 1]]},
            {"src_kps": [[4, 20]]},
            {"src_kps": [["4", None]]},
            {"category": "unicorn"},
            {"kps_ids": None},
            {"viewpoint_variation": "hard"},
            {"src_imsize": [160, 121, 3]},
        ],
    )
    def test_a_wrong_entry_is_named_with_its_file(self, tmp_path, change):
        copy = self.write(tmp_path)
        path = copy.annotations[0]
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert_reported(copy, path)

    def test_a_damaged_segmentation_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = tmp_path / "Segmentation" / CATEGORY / f"{STEMS[SOURCE]}.png"
        path.write_bytes(path.read_bytes()[:200])
        assert_reported(copy, path)

    @pytest.mark.parametrize("content", [b"000001-a-b\n", b"no pair at all:chair\n", RUBBISH])
    def test_a_damaged_list_is_named(self, tmp_path, content):
        copy = self.write(tmp_path)
        path = tmp_path / "Layout" / "large" / "test.txt"
        path.write_bytes(content)
        assert_reported(copy, path)
