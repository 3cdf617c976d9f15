import json

import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy, assert_reported
from tests.support.miniatures.scene import miniature_scene
from tests.support.miniatures.youtube_vos import STEP, VIDEO, number, write_youtube_vos

from perception.core.errors import InputError
from perception_training.data.readers import open_dataset

NUM_FRAMES = 11
ANNOTATED = (0, 5, 10)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_youtube_vos(tmp_path_factory.mktemp("youtube_vos"), miniature_scene(NUM_FRAMES))


def test_training_videos_have_images_masks_and_categories_of_the_scene(root):
    scene = miniature_scene(NUM_FRAMES)
    sequence = open_dataset("youtube_vos", root)[0]
    assert sequence.frame_names == ("00015", "00020", "00025")
    sample = sequence.load((0, 1, 2))
    for index, frame in enumerate(ANNOTATED):
        assert np.abs(sample.images[index].astype(int) - scene.images[frame]).mean() < 4  # JPEG
        np.testing.assert_array_equal(sample.masks[index], scene.masks[frame])
    assert sample.text == "box, ball"
    assert [(item.name, item.mask_id) for item in sample.objects] == [("box 1", 1), ("ball 2", 2)]
    np.testing.assert_allclose(sample.times_s, (0.5, 20 / 30, 25 / 30))
    assert sample.mask_known is None


def test_all_frames_have_masks_where_they_are_annotated_only(root):
    scene = miniature_scene(NUM_FRAMES)
    sequence = open_dataset("youtube_vos", root, {"all_frames": True})[0]
    assert len(sequence) == NUM_FRAMES
    sample = sequence.load(range(NUM_FRAMES))
    np.testing.assert_array_equal(sample.mask_known, [frame % STEP == 0 for frame in range(NUM_FRAMES)])
    for frame in range(NUM_FRAMES):
        assert np.abs(sample.images[frame].astype(int) - scene.images[frame]).mean() < 4
        np.testing.assert_array_equal(sample.masks[frame], scene.masks[frame] if frame % STEP == 0 else 0)


def test_validation_videos_have_masks_where_objects_first_appear(root):
    scene = miniature_scene(NUM_FRAMES)
    sample = open_dataset("youtube_vos", root, {"split": "valid"})[0].load((0, 1, 2))
    np.testing.assert_array_equal(sample.mask_known, (True, True, False))
    np.testing.assert_array_equal(sample.masks[0] == 1, scene.masks[0] == 1)
    assert not (sample.masks[0] == 2).any()
    np.testing.assert_array_equal(sample.masks[1] == 2, scene.masks[5] == 2)
    assert not sample.masks[2].any()


def test_a_split_that_is_not_there_is_named(root):
    with pytest.raises(InputError, match=r"test/meta\.json"):
        open_dataset("youtube_vos", root, {"split": "test"})


class TestBadInput(BadInput):
    test_a_pose_that_is_no_rotation_is_named = None  # the set has no poses
    test_an_image_that_its_intrinsics_are_not_for_is_named = None  # and no intrinsics

    def write(self, folder):
        write_youtube_vos(folder, miniature_scene(NUM_FRAMES))
        images = tuple(folder / "train" / "JPEGImages" / VIDEO / f"{number(frame)}.jpg" for frame in ANNOTATED)
        return Copy("youtube_vos", folder, VIDEO, images, annotations=(folder / "train" / "meta.json",))

    def no_frames(self, copy):
        for image in copy.images:
            image.unlink()
        return copy.images[0].parent

    def test_a_listed_mask_that_is_absent_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = tmp_path / "train" / "Annotations" / VIDEO / f"{number(5)}.png"
        path.unlink()
        assert_reported(copy, path)

    def test_a_truncated_mask_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = tmp_path / "train" / "Annotations" / VIDEO / f"{number(5)}.png"
        path.write_bytes(path.read_bytes()[:300])
        assert_reported(copy, path)

    def test_a_mask_of_another_size_is_named_by_its_frame(self, tmp_path):
        copy = self.write(tmp_path)
        small = write_youtube_vos(tmp_path / "small", miniature_scene(NUM_FRAMES, 80, 60))
        source = small / "train" / "Annotations" / VIDEO / f"{number(5)}.png"
        source.replace(tmp_path / "train" / "Annotations" / VIDEO / source.name)
        assert_reported(copy, f"youtube_vos/{VIDEO}/{number(5)}")

    @pytest.mark.parametrize(
        "videos",
        [
            {},
            {VIDEO: {}},
            {VIDEO: {"objects": {}}},
            {VIDEO: {"objects": {"one": {"category": "box", "frames": [number(0)]}}}},
            {VIDEO: {"objects": {"1": {"category": "box", "frames": []}}}},
            {VIDEO: {"objects": {"1": {"frames": [number(0)]}}}},
        ],
    )
    def test_wrong_meta_data_is_named(self, tmp_path, videos):
        copy = self.write(tmp_path)
        copy.annotations[0].write_text(json.dumps({"videos": videos}))
        assert_reported(copy, copy.annotations[0])
