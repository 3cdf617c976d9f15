import numpy as np
import pytest
from tests.support.bad_input import BadInput, Copy
from tests.support.closeness import assert_close
from tests.support.miniatures.colmap import image_name, write_colmap
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px, seen_by

from perception.core.errors import InputError
from perception.core.types import Camera
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)
LENSES = {
    "SIMPLE_PINHOLE": ("none", ()),
    "SIMPLE_RADIAL": ("plumb_bob", (-0.12, 0.0, 0.0, 0.0)),
    "RADIAL": ("plumb_bob", (-0.12, 0.03, 0.0, 0.0)),
    "OPENCV": ("plumb_bob", (-0.12, 0.03, 0.004, -0.003)),
    "OPENCV_FISHEYE": ("equidistant", (0.05, -0.02, 0.01, -0.003)),
    "SIMPLE_RADIAL_FISHEYE": ("equidistant", (0.05, 0.0, 0.0, 0.0)),
    "RADIAL_FISHEYE": ("equidistant", (0.05, -0.02, 0.0, 0.0)),
    "FULL_OPENCV": ("rational_polynomial", (-0.12, 0.03, 0.004, -0.003, 0.01, 0.02, -0.01, 0.005)),
}


def open_only(root, **options):
    return open_dataset("colmap", root, options)[0]


@pytest.mark.parametrize("binary", [True, False])
def test_a_model_gives_the_frames_of_the_scene(tmp_path, binary):
    scene = miniature_scene()
    write_colmap(tmp_path / "scene", scene, binary=binary)
    sequence = open_only(tmp_path)
    assert sequence.frame_names == tuple(map(image_name, ALL))
    sample = sequence.load(ALL)
    for image, truth in zip(sample.images, scene.images, strict=True):
        np.testing.assert_array_equal(image, truth)
    assert sample.unit == "arbitrary"
    assert sample.depth_m is None
    assert reprojection_error_px(sample, scene, ALL) < 1e-3


@pytest.mark.parametrize("model", LENSES)
def test_every_lens_model_reprojects(tmp_path, model):
    kind, distortion = LENSES[model]
    scene = seen_by(miniature_scene(), Camera(160, 120, 150.0, 150.0, 78.4, 61.2, kind, distortion))
    write_colmap(tmp_path, scene, model=model)
    sample = open_only(tmp_path).load(ALL)
    assert sample.cameras[0].distortion_model == kind
    assert reprojection_error_px(sample, scene, ALL) < 1e-3


def test_points_become_tracks_where_their_keypoints_are(tmp_path):
    scene = miniature_scene()
    write_colmap(tmp_path, scene)
    tracks = open_only(tmp_path).load((2, 0)).tracks
    np.testing.assert_array_equal(tracks.visible, scene.visible[[2, 0]])
    assert 0 < scene.visible.sum() < scene.visible.size
    expected = np.where(scene.visible[..., None], scene.points_px, np.nan)[[2, 0]]
    assert_close(tracks.points_px, expected.astype(np.float32))
    assert_close(tracks.points_world, np.broadcast_to(scene.points_world, tracks.points_world.shape).astype(np.float32))


def test_few_track_points_are_those_that_most_images_see(tmp_path):
    scene = miniature_scene()
    write_colmap(tmp_path, scene, binary=False)
    tracks = open_only(tmp_path, max_track_points=5).load(ALL).tracks
    assert tracks.num_points == 5
    assert tracks.visible.sum() == np.sort(scene.visible.sum(0))[-5:].sum()
    assert open_only(tmp_path, max_track_points=0).load(ALL).tracks is None


def test_images_of_a_smaller_folder_have_scaled_intrinsics_and_tracks(tmp_path):
    scene = miniature_scene()
    write_colmap(tmp_path, scene, scale=4, image_folder="images_4")
    sample = open_only(tmp_path, image_folder="images_4").load(ALL)
    assert sample.images[0].shape == (30, 40, 3)
    assert reprojection_error_px(sample, scene, ALL) < 1e-3
    half = scene.cameras[0].resized(40, 30)
    assert sample.cameras[0] == half
    expected = (scene.points_px + 0.5) / 4 - 0.5
    assert_close(sample.tracks.points_px[sample.tracks.visible], expected[scene.visible].astype(np.float32), atol=1e-4)


def test_a_folder_that_is_a_reconstruction_is_one_sequence(tmp_path):
    write_colmap(tmp_path / "garden", miniature_scene())
    assert open_dataset("colmap", tmp_path / "garden").sequence_names == ("garden",)
    write_colmap(tmp_path / "attic", miniature_scene(), binary=False)
    assert open_dataset("colmap", tmp_path).sequence_names == ("attic", "garden")


def test_a_lens_model_without_a_camera_of_ours_is_an_error(tmp_path):
    model = write_colmap(tmp_path, miniature_scene(), binary=False)
    (model / "cameras.txt").write_text("7 FOV 160 120 150 150 80 60 0.9\n")
    with pytest.raises(InputError, match=r"cameras\.txt: camera model FOV is not handled; handled: SIMPLE_PINHOLE, PINHOLE"):
        open_only(tmp_path)


def test_an_image_whose_camera_is_not_listed_is_an_error(tmp_path):
    model = write_colmap(tmp_path, miniature_scene(), binary=False)
    (model / "cameras.txt").write_text("8 PINHOLE 160 120 150 150 80 60\n")
    with pytest.raises(InputError, match=r"images\.txt: image left/view8\.png has camera 7: must be one of \[8\]"):
        open_only(tmp_path)


def test_images_of_another_shape_than_the_camera_are_an_error(tmp_path):
    model = write_colmap(tmp_path, miniature_scene(), binary=False)
    (model / "cameras.txt").write_text("7 PINHOLE 160 90 150 150 80 45\n")
    with pytest.raises(InputError, match=r"view8\.png is 160x120 but its intrinsics in .*cameras\.txt are for 160x90"):
        open_only(tmp_path)


class TestBadInput(BadInput):
    binary = True

    def write(self, folder):
        model = write_colmap(folder / "scene", miniature_scene(), binary=self.binary)
        images = tuple(folder / "scene" / "images" / image_name(frame) for frame in ALL)
        suffix = ".bin" if self.binary else ".txt"
        annotations = tuple(model / (stem + suffix) for stem in ("cameras", "images", "points3D"))
        return Copy("colmap", folder, "scene", images, annotations=annotations)

    def no_rotation(self, copy):
        model = write_colmap(copy.root / "scene", miniature_scene(), binary=self.binary, quaternion_length=2.0)
        return next(model.glob("images.*"))

    def no_frames(self, copy):
        path = next((copy.root / "scene" / "sparse" / "0").glob("images.*"))
        path.write_bytes(b"\0" * 8 if self.binary else b"# Image list\n")
        return path


class TestBadInputInText(TestBadInput):
    binary = False
