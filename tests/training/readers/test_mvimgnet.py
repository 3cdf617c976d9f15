import shutil
from functools import cache

import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy
from tests.support.miniatures.mvimgnet import image_name, write_mvimgnet
from tests.support.miniatures.scene import assert_jpegs_of, miniature_scene, reprojection_error_px, seen_by

from perception.core.errors import InputError
from perception.core.types import Camera
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)


@cache
def radial_scene():
    return seen_by(miniature_scene(), Camera(160, 120, 150.0, 150.0, 78.4, 61.2, "plumb_bob", (-0.1, 0.0, 0.0, 0.0)))


def test_an_instance_gives_the_frames_of_the_scene(tmp_path):
    write_mvimgnet(tmp_path, radial_scene())
    dataset = open_dataset("mvimgnet", tmp_path)
    assert dataset.sequence_names == ("0/0a00f1c2",)
    sample = dataset[0].load(ALL)
    assert sample.frame_names == ("001.jpg", "002.jpg", "003.jpg", "004.jpg")
    assert sample.text == "bag"
    assert sample.unit == "arbitrary"
    assert_jpegs_of(sample.images, radial_scene().images)
    assert reprojection_error_px(sample, radial_scene(), ALL) < 1e-3
    np.testing.assert_array_equal(sample.tracks.visible, radial_scene().visible)


def test_masks_are_brought_to_the_size_of_the_images_and_not_known_where_absent(tmp_path):
    write_mvimgnet(tmp_path, radial_scene())
    sample = open_dataset("mvimgnet", tmp_path)[0].load(ALL)
    masks = sample.masks
    np.testing.assert_array_equal(sample.mask_known, [True, True, True, False])
    for frame in ALL[:-1]:
        assert (masks[frame] == (radial_scene().masks[frame] > 0)).mean() > 0.97
        assert set(np.unique(masks[frame])) == {0, 1}
    assert not masks[-1].any()


def test_without_the_mask_archive_there_are_no_masks(tmp_path):
    write_mvimgnet(tmp_path / "set", radial_scene())
    shutil.move(tmp_path / "set" / "masks", tmp_path / "elsewhere")
    assert open_dataset("mvimgnet", tmp_path / "set")[0].load(ALL).masks is None
    assert open_dataset("mvimgnet", tmp_path / "set", {"masks": str(tmp_path / "elsewhere")})[0].load(ALL).masks is not None


def test_categories_are_chosen_by_label(tmp_path):
    for sequence in ("0/a", "0/b", "12/c"):
        write_mvimgnet(tmp_path, radial_scene(), sequence=sequence)
    assert open_dataset("mvimgnet", tmp_path).sequence_names == ("0/a", "0/b", "12/c")
    assert open_dataset("mvimgnet", tmp_path, {"categories": ["12"]}).sequence_names == ("12/c",)
    assert open_dataset("mvimgnet", tmp_path, {"categories": ["12"]})[0].text is None
    with pytest.raises(InputError, match=r"no folder of category '3'; there are 0, 12"):
        open_dataset("mvimgnet", tmp_path, {"categories": ["3"]})


class TestBadInput(BadInput):
    def write(self, folder):
        instance = write_mvimgnet(folder, radial_scene())
        images = tuple(instance / "images" / image_name(frame) for frame in ALL)
        annotations = tuple(instance / "sparse" / "0" / f"{stem}.bin" for stem in ("cameras", "images", "points3D"))
        return Copy("mvimgnet", folder, "0/0a00f1c2", images, annotations=annotations)

    def no_rotation(self, copy):
        return write_mvimgnet(copy.root, radial_scene(), quaternion_length=0.5) / "sparse" / "0" / "images.bin"

    def no_frames(self, copy):
        shutil.rmtree(copy.root / copy.sequence / "images")
        return copy.root / copy.sequence / "images"


def test_a_truncated_mask_is_named(tmp_path):
    write_mvimgnet(tmp_path, radial_scene())
    mask = tmp_path / "masks" / "0/0a00f1c2" / "002.jpg.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(InputError, match=str(mask)):
        open_dataset("mvimgnet", tmp_path)[0].load([1])
