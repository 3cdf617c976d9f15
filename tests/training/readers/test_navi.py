import dataclasses
import json

import numpy as np
import pytest
import trimesh
from PIL import Image
from tests.support.bad_input import BadInput, Copy, assert_reported
from tests.support.miniatures.navi import OBJECT, UPSIDE, is_object, navi_scene, write_navi
from tests.support.miniatures.scene import BOX_SIZE_M, WORLD_FROM_BOX, reprojection_error_px

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.camera import project
from perception_training.data.readers import open_dataset
from perception_training.data.readers.navi import relative_depth

ALL = (0, 1, 2, 3)
MULTIVIEW = f"{OBJECT}/multiview-00-pixel_5"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("navi")
    write_navi(folder, navi_scene())
    return folder


def test_frames_reproject_with_and_without_depth(root):
    sample = open_dataset("navi", root).open_sequence(MULTIVIEW).load(ALL)
    assert sample.unit == "metre"
    assert reprojection_error_px(sample, navi_scene(), ALL) < 0.5
    assert reprojection_error_px(dataclasses.replace(sample, depth_m=None), navi_scene(), ALL) < 1e-3


def test_depth_is_that_of_the_object_in_metres(root):
    scene = navi_scene()
    sample = open_dataset("navi", root).open_sequence(MULTIVIEW).load(ALL)
    for frame in ALL:
        seen = is_object(scene, frame)
        assert 0.2 < seen.mean() < 0.9
        np.testing.assert_array_equal(sample.masks[frame], seen)
        assert (sample.depth_m[frame][~seen] == 0).all()
        np.testing.assert_allclose(sample.depth_m[frame][seen], scene.depth_m[frame][seen], rtol=2e-3)


def test_photographs_are_turned_upright(root):
    with Image.open(root / OBJECT / "wild_set" / "images" / f"{UPSIDE:03d}.jpg") as stored:
        assert stored.size == (120, 160)
    sample = open_dataset("navi", root).open_sequence(MULTIVIEW).load(ALL)
    for image, truth in zip(sample.images, navi_scene().images, strict=True):
        assert image.shape == truth.shape
        assert np.abs(image.astype(int) - truth).mean() < 4  # JPEG


def test_the_object_is_the_world_and_its_scan_projects_onto_its_corners(root):
    scene = navi_scene()
    sample = open_dataset("navi", root).open_sequence(MULTIVIEW).load(ALL)
    item = sample.objects[0]
    np.testing.assert_allclose(item.camera_from_object @ sample.world_from_camera, np.broadcast_to(np.eye(4), (4, 4, 4)), atol=1e-9)
    np.testing.assert_allclose(item.camera_from_object, scene.camera_from_object("box"), atol=1e-6)
    corners = trimesh.load(item.mesh, process=False, force="mesh").vertices * item.mesh_unit_m
    assert np.abs(corners).max(axis=0) == pytest.approx(np.array(BOX_SIZE_M) / 2)
    for frame in ALL:
        found = project(se3.transform_points(item.camera_from_object[frame], corners), sample.cameras[frame])
        expected = project(se3.transform_points(scene.camera_from_object("box")[frame], corners), scene.cameras[frame])
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not np.allclose(WORLD_FROM_BOX, np.eye(4))


def test_relative_depth_spans_one_hundredth_to_one(root):
    metric = open_dataset("navi", root).open_sequence(MULTIVIEW).load(ALL)
    sample = open_dataset("navi", root, {"relative_depth": True}).open_sequence(MULTIVIEW).load(ALL)
    assert sample.unit == "arbitrary"
    for depth, relative in zip(metric.depth_m, sample.depth_m, strict=True):
        known = depth > 0
        low, high = depth[known].min(), depth[known].max()
        np.testing.assert_allclose(relative[known], (depth[known] - low) / (high - low) * 0.99 + 0.01, atol=1e-5)
        np.testing.assert_allclose((relative[known].min(), relative[known].max()), (0.01, 1.0), atol=1e-6)
        assert (relative[~known] == 0).all()


def test_relative_depth_of_a_flat_object_is_not_stretched():
    np.testing.assert_allclose(relative_depth(np.array([[0.0, 0.5, 0.505]])), [[0.0, 0.01, 0.505]])
    np.testing.assert_array_equal(relative_depth(np.zeros((2, 2))), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("options", "names", "frames"),
    [
        ({}, (MULTIVIEW, f"{OBJECT}/wild_set"), ("000", "001", "002", "003")),
        ({"scenes": "wild", "split": "train"}, (f"{OBJECT}/wild_set",), ("000", "002", "003")),
        ({"scenes": "multiview", "split": "val"}, (MULTIVIEW,), ("001",)),
        ({"occluded": False}, (MULTIVIEW, f"{OBJECT}/wild_set"), ("000", "001", "002")),
    ],
)
def test_options_choose_collections_and_images(root, options, names, frames):
    dataset = open_dataset("navi", root, options)
    assert dataset.sequence_names == names
    assert dataset[0].frame_names == frames
    assert dataset[0].load((0,)).attributes == {"collection": names[0].split("/")[1].split("-")[0].split("_")[0]}


def test_downsampled_copies_bring_their_own_intrinsics(tmp_path):
    base = write_navi(tmp_path, navi_scene())
    folder = base / "wild_set"
    for frame in (0, 2):
        for sub, suffix in (("images", "jpg"), ("depth", "png")):
            with Image.open(folder / sub / f"{frame:03d}.{suffix}") as picture:
                factor = 1024 / min(picture.size)
                size = tuple(int(side * factor) for side in picture.size)
                picture.resize(size, Image.Resampling.NEAREST).save(folder / sub / f"downsampled_{frame:03d}.{suffix}")
    sample = open_dataset("navi", tmp_path, {"downsampled": True, "scenes": "wild"})[0].load((0, 2))
    for index, frame in enumerate((0, 2)):
        height, width = sample.images[index].shape[:2]
        assert min(height, width) == 1024
        assert sample.depth_m[index].shape == (height, width)
        assert sample.cameras[index] == navi_scene().cameras[frame].resized(width, height)


class TestBadInput(BadInput):
    def write(self, folder):
        scene = write_navi(folder, navi_scene()) / "multiview-00-pixel_5"
        images, depths = (tuple(scene / sub / f"{frame:03d}.{suffix}" for frame in ALL) for sub, suffix in (("images", "jpg"), ("depth", "png")))
        return Copy("navi", folder, MULTIVIEW, images, depths, (scene / "annotations.json",))

    test_damaged_annotations_are_named = None  # a folder without the file is no collection: see below

    def no_rotation(self, copy):
        return self.changed(copy, lambda entries: entries[1]["camera"].update(q=[0, 0, 0, 0]))

    def no_frames(self, copy):
        return self.changed(copy, lambda entries: entries.clear())

    def changed(self, copy, change):
        path = copy.annotations[0]
        entries = json.loads(path.read_text())
        change(entries)
        path.write_text(json.dumps(entries))
        return path

    @pytest.mark.parametrize(
        "change",
        [
            lambda entries: entries[2]["camera"].update(q=[1, 0, 0]),
            lambda entries: entries[2]["camera"].update(t=[1, 0, float("nan")]),
            lambda entries: entries[2]["camera"].update(focal_length=0),
            lambda entries: entries[2].pop("camera"),
            lambda entries: entries[2].pop("filename"),
            lambda entries: entries[2].update(image_size=[120]),
            lambda entries: entries.__setitem__(2, "an image"),
        ],
    )
    def test_a_wrong_entry_is_named_with_its_file_and_number(self, tmp_path, change):
        copy = self.write(tmp_path)
        assert_reported(copy, f"{self.changed(copy, change)}, entry 2")

    @pytest.mark.parametrize("content", ["{}", '[{"camera": ', "\x00"])
    def test_a_damaged_file_of_annotations_is_named(self, tmp_path, content):
        copy = self.write(tmp_path)
        copy.annotations[0].write_text(content)
        assert_reported(copy, copy.annotations[0])

    def test_a_choice_that_leaves_no_image_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        path = self.changed(copy, lambda entries: [content.update(split="train") for content in entries])
        with pytest.raises(InputError, match="no image is left of split val") as caught:
            open_dataset("navi", copy.root, {"split": "val"}).open_sequence(MULTIVIEW)
        assert str(path) in str(caught.value)

    def test_a_missing_depth_image_or_mask_is_named(self, tmp_path):
        copy = self.write(tmp_path)
        for path in (copy.depths[3], copy.depths[2].parent.parent / "masks" / "002.png"):
            path.unlink()
            assert_reported(copy, path)
