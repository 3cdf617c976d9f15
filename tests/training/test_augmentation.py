"""Whatever an augmentation does, cameras, poses, depth, masks, normals, tracks and objects still tell of the same world."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.miniatures.samples import scene_sample

from perception.core.errors import ConfigError
from perception.core.types import Camera
from perception.geometry import se3, so3
from perception.geometry.camera import project, unproject
from perception_training.data.augmentation import AugmentationConfig, ColourConfig, ShiftScaleRotateConfig, augment, undistort_sample
from perception_training.data.augmentation.presets import mef_augmentation, three_d_pov_augmentation
from perception_training.data.augmentation.views import resized
from perception_training.data.augmentation.warping import views_of, warp_sample
from perception_training.data.sample import ObjectTrack, Sample, Tracks

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
LENSES = {
    "none": (),
    "plumb_bob": (-0.2, 0.05, 0.004, -0.006, 0.01),
    "rational_polynomial": (0.3, 0.1, -0.003, 0.005, 0.02, 0.4, 0.05, 0.01),
    "equidistant": (0.05, -0.01, 0.003, -0.001),
}


def plane_sample(lens: str) -> Sample:
    """Two views of the plane z = 0 through a lens with non-square pixels: depth, normals and tracks are exact."""
    camera = Camera(90, 70, 80.0, 95.0, 47.2, 31.9, lens, LENSES[lens])  # type: ignore[arg-type]
    turns = [so3.exp(np.array([2.6, 0.1, 0.2 * x])) for x in (-0.2, 0.3)]
    poses = se3.inverse(np.stack([se3.from_rotation_translation(turn, np.array([0.1, turn[0, 0] / 9, 2.0])) for turn in turns]))
    x, y = np.meshgrid(np.arange(90.0), np.arange(70.0))
    rays = unproject(np.stack([x, y], -1), np.ones_like(x), camera)
    depth, normals = [], []
    for pose in poses:
        with np.errstate(invalid="ignore", divide="ignore"):
            along = -pose[2, 3] / (rays @ pose[2, :3])
        depth.append(np.where(np.isfinite(along) & (along > 0), along, 0).astype(np.float32))
        normals.append(np.where(depth[-1][..., None] > 0, pose[2, :3], 0).astype(np.float32))
    grid = np.stack(np.meshgrid(np.linspace(-0.8, 0.8, 9), np.linspace(-0.6, 0.6, 7), [0.0]), -1).reshape(-1, 3)
    points_px = np.stack([project(se3.transform_points(se3.inverse(pose), grid), camera) for pose in poses])
    visible = ((points_px > 0) & (points_px < (89, 69))).all(-1)
    world = np.stack([grid, grid]).astype(np.float32)
    image = np.full((70, 90, 3), 128, np.uint8)
    tile = ObjectTrack("tile", se3.inverse(poses), mask_id=1, bounds=np.array([[-0.1, -0.2, 0], [0.3, 0.2, 0.1]]), visible_share=np.ones(2))
    return Sample(
        "plane", lens, ("a", "b"), (image, image), None, (camera, camera), poses, tuple(depth), tuple((d > 0).astype(np.int32) for d in depth),
        tuple(normals), tuple(d > 2.0 for d in depth), Tracks(points_px.astype(np.float32), visible, world), (tile,),
    )  # fmt: skip


def configs() -> st.SearchStrategy[AugmentationConfig]:
    certain = st.sampled_from([0.0, 1.0])
    place = st.builds(ShiftScaleRotateConfig, probability=certain, shift=st.just(0.15), scale=st.sampled_from([0.0, 0.3]), rotate_deg=st.just(60.0))
    size = st.sampled_from([(0, 0), (50, 50), (33, 80), (160, 120)])
    return st.builds(
        lambda size, **rest: AugmentationConfig(height=size[0], width=size[1], **rest),
        size=size,
        undistort=st.booleans(),
        quarter_turn_probability=certain,
        shift_scale_rotate=place,
        crop=st.sampled_from(["none", "centre", "random"]),
        crop_min_share=st.sampled_from([0.6, 1.0]),
        flip_probability=certain,
        independent_frames=st.booleans(),
    )


def check_tracks(sample: Sample) -> None:
    """Track pixels are the projections of the track's points, to 0.01 px."""
    assert sample.tracks is not None
    for frame in range(len(sample)):
        camera, pose = sample.cameras[frame], sample.world_from_camera[frame]
        expected = project(se3.transform_points(se3.inverse(pose), sample.tracks.points_world[frame].astype(np.float64)), camera)
        known = np.isfinite(expected).all(1) & np.isfinite(sample.tracks.points_px[frame]).all(1)
        near = known & (np.abs(expected - (camera.width / 2, camera.height / 2)) < 4 * max(camera.width, camera.height)).all(1)
        np.testing.assert_allclose(sample.tracks.points_px[frame][near], expected[near], atol=0.01)
        assert near.sum() > 10
        inside = ((expected > -0.5) & (expected < (camera.width - 0.5, camera.height - 0.5))).all(1)
        assert not (sample.tracks.visible[frame] & ~inside).any()


def check_maps(new: Sample, old: Sample, is_mirrored: bool) -> None:
    """Each new pixel's point, seen by the old camera, has the depth, mask, motion and normal of the old pixel that it falls on."""
    world = MIRROR if is_mirrored else np.eye(4)
    for frame in range(len(new)):
        rows, cols = np.nonzero(new.depth_m[frame])
        points = new.points_world(frame)[rows, cols].astype(np.float64)
        in_old = se3.transform_points(se3.inverse(old.world_from_camera[frame]) @ world, points)
        pixels = project(in_old, old.cameras[frame])
        fraction = np.abs(pixels - np.floor(pixels) - 0.5)
        clear = (fraction > 0.02).all(1)  # not half way between two pixels, where either is right
        col, row = np.rint(pixels[clear]).astype(int).T
        np.testing.assert_allclose(in_old[clear, 2], old.depth_m[frame][row, col], rtol=1e-4)
        at = rows[clear], cols[clear]
        assert (new.masks[frame][at] == old.masks[frame][row, col]).all()
        assert (new.dynamic[frame][at] == old.dynamic[frame][row, col]).all()
        new_normals = new.normals[frame][at] @ (world[:3, :3] @ new.world_from_camera[frame][:3, :3]).T
        np.testing.assert_allclose(new_normals, old.normals[frame][row, col] @ old.world_from_camera[frame][:3, :3].T, atol=1e-4)


def check_objects(new: Sample, old: Sample, is_mirrored: bool) -> None:
    """Corners of the objects' bounds lie where they lay in the world, and poses are rigid."""
    world = MIRROR if is_mirrored else np.eye(4)
    for item_new, item_old in zip(new.objects, old.objects, strict=True):
        for frame in range(len(new)):
            found = se3.transform_points(new.world_from_camera[frame] @ item_new.camera_from_object[frame], corners(item_new.bounds))
            expected = se3.transform_points(world @ old.world_from_camera[frame] @ item_old.camera_from_object[frame], corners(item_old.bounds))
            distance = np.linalg.norm(found[:, None] - expected[None], axis=-1)
            assert distance.min(1).max() < 1e-9
            assert distance.min(0).max() < 1e-9
            assert np.linalg.det(item_new.camera_from_object[frame][:3, :3]) == pytest.approx(1.0)


def corners(bounds: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*bounds.T), -1).reshape(-1, 3)


@settings(max_examples=60, deadline=None)
@given(config=configs(), lens=st.sampled_from(sorted(LENSES)), seed=st.integers(0, 1000))
def test_any_augmentation_keeps_a_plane_seen_through_any_lens_consistent(config, lens, seed):
    old = plane_sample(lens)
    check_tracks(old)
    new = augment(old, config, np.random.default_rng(seed))
    is_mirrored = config.flip_probability == 1
    check_tracks(new)
    check_objects(new, old, is_mirrored)
    if not config.undistort:
        check_maps(new, old, is_mirrored)


@settings(max_examples=25, deadline=None)
@given(config=configs(), seed=st.integers(0, 1000))
def test_any_augmentation_keeps_the_rendered_scene_consistent(config, seed):
    old = scene_sample()
    new = augment(old, config, np.random.default_rng(seed))
    check_tracks(new)
    check_maps(new, old, config.flip_probability == 1)
    check_objects(new, old, config.flip_probability == 1)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("turn", [0.0, 1.0])
def test_the_image_moves_with_its_depth(turn, flip):
    old = scene_sample()
    config = AugmentationConfig(flip_probability=flip, shift_scale_rotate=ShiftScaleRotateConfig(probability=turn, scale=0.05, shift=0.05))
    new = augment(old, config, np.random.default_rng(3))
    rows, cols = np.nonzero(new.depth_m[1])
    world = MIRROR if flip else np.eye(4)
    in_old = se3.transform_points(se3.inverse(old.world_from_camera[1]) @ world, new.points_world(1)[rows, cols].astype(np.float64))
    x, y = project(in_old, old.cameras[1]).T
    inside = (x > 1) & (y > 1) & (x < 157) & (y < 117)
    x, y, rows, cols = x[inside], y[inside], rows[inside], cols[inside]
    col, row = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = (x - col)[:, None], (y - row)[:, None]
    image = old.images[1].astype(np.float64)
    expected = (1 - b) * ((1 - a) * image[row, col] + a * image[row, col + 1]) + b * ((1 - a) * image[row + 1, col] + a * image[row + 1, col + 1])
    assert np.abs(new.images[1][rows, cols] - expected).mean() < 1.5


def test_shrinking_averages_areas_and_never_mixes_depth_or_masks():
    old = scene_sample()
    new = augment(old, AugmentationConfig(height=60, width=80), np.random.default_rng(0))
    blocks = old.images[0].reshape(60, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(new.images[0] - blocks).max() <= 0.51
    assert set(np.unique(new.depth_m[0])) <= set(np.unique(old.depth_m[0]))
    assert set(np.unique(new.masks[0])) <= set(np.unique(old.masks[0]))
    assert new.cameras[0] == old.cameras[0].resized(80, 60)


def test_unknown_depth_stays_unknown():
    old = scene_sample()
    holes = tuple(np.where((np.arange(160) // 20) % 2 == 0, np.float32(0), depth) for depth in old.depth_m)
    old = replace(old, depth_m=holes)
    config = AugmentationConfig(shift_scale_rotate=ShiftScaleRotateConfig(probability=1.0), height=90, width=130)
    new = augment(old, config, np.random.default_rng(0))
    assert set(np.unique(new.depth_m[0])) <= {np.float32(0), *np.unique(holes[0])}


def test_four_quarter_turns_and_two_flips_give_the_sample_back():
    from perception_training.data.augmentation.views import flipped, quarter_turned
    from perception_training.data.augmentation.warping import views_of, warp_sample

    old = scene_sample()
    turned = warp_sample(old, [flipped(quarter_turned(view, 1)) for view in views_of(old)])
    assert turned.images[0].shape == (160, 120, 3)
    np.testing.assert_array_equal(turned.images[0], np.rot90(old.images[0])[:, ::-1])
    back = warp_sample(turned, [quarter_turned(flipped(view), 3) for view in views_of(turned)])
    np.testing.assert_array_equal(back.images[0], old.images[0])
    np.testing.assert_array_equal(back.depth_m[0], old.depth_m[0])
    np.testing.assert_allclose(back.world_from_camera, old.world_from_camera, atol=1e-12)
    np.testing.assert_allclose(back.tracks.points_px, old.tracks.points_px, atol=1e-4)


def test_nothing_is_flipped_where_words_say_left_or_right():
    config = AugmentationConfig(flip_probability=1.0)
    sample = replace(scene_sample(), text="the robot's left_arm")
    assert augment(sample, config, np.random.default_rng(0)) is sample
    assert augment(replace(sample, text="leftover cake"), config, np.random.default_rng(0)) is not sample


def test_a_flipped_object_has_no_mesh_on_disk():
    new = augment(scene_sample(), AugmentationConfig(flip_probability=1.0), np.random.default_rng(0))
    assert new.objects[0].mesh is None


def test_the_visible_share_of_an_object_falls_when_it_is_cropped():
    new = augment(scene_sample(), AugmentationConfig(crop="centre", crop_min_share=0.3), np.random.default_rng(5))
    before, after = (np.array([np.count_nonzero(mask == 1) for mask in masks]) for masks in (scene_sample().masks, new.masks))
    np.testing.assert_allclose(new.objects[0].visible_share, after / before)
    assert (after < before).any()


def test_undistorted_images_show_the_plane_where_a_pinhole_camera_would():
    old = plane_sample("plumb_bob")
    new = undistort_sample(old)
    check_tracks(new)
    camera = new.cameras[0]
    assert camera.distortion_model == "none"
    points = new.points_world(0)
    seen = np.isfinite(points).all(-1)
    assert seen.mean() > 0.8
    assert np.abs(points[seen][:, 2]).max() < 0.05  # half a pixel of slope


def test_distorted_frames_without_lens_are_left_alone():
    sample = scene_sample()
    assert undistort_sample(sample) is sample


def test_a_sample_without_cameras_moves_its_tracks():
    full = scene_sample()
    bare = Sample("video", "clip", full.frame_names, full.images, tracks=Tracks(full.tracks.points_px, full.tracks.visible))
    config = AugmentationConfig(quarter_turn_probability=1.0, flip_probability=1.0, height=64, width=64)
    with_cameras = augment(replace(full, text=None), config, np.random.default_rng(2))
    without = augment(bare, config, np.random.default_rng(2))
    np.testing.assert_allclose(without.tracks.points_px, with_cameras.tracks.points_px, atol=1e-4)
    np.testing.assert_array_equal(without.images[0], with_cameras.images[0])


def test_colours_change_alike_over_a_clip_unless_each_frame_is_asked_for():
    image = np.random.default_rng(0).integers(30, 200, (40, 50, 3), dtype=np.uint8)
    sample = Sample("grey", "clip", ("a", "b"), (image, image))
    same = augment(sample, AugmentationConfig(colour=ColourConfig(jitter_probability=1.0, blur_probability=1.0)), np.random.default_rng(1))
    np.testing.assert_array_equal(same.images[0], same.images[1])
    assert np.abs(same.images[0].astype(int) - image).mean() > 1
    own = ColourConfig(per_frame=True, jitter_probability=1.0)
    different = augment(sample, AugmentationConfig(colour=own), np.random.default_rng(1))
    assert np.abs(different.images[0].astype(int) - different.images[1]).mean() > 1


@pytest.mark.parametrize("step", ["jitter", "clahe", "blur", "noise", "jpeg"])
def test_each_change_of_colour_is_moderate_and_repeatable(step):
    sample = scene_sample(2)
    config = AugmentationConfig(colour=ColourConfig(**{f"{step}_probability": 1.0}))
    first, again = (augment(sample, config, np.random.default_rng(7)).images[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    change = np.abs(first.astype(int) - sample.images[0]).mean()
    assert 0.2 < change < 60


def test_noise_has_the_strength_that_was_drawn():
    from perception_training.data.augmentation.colour import _noisy

    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = _noisy(grey, 5.0, 8.0, np.random.default_rng(0)).astype(float)
    assert noisy.std() == pytest.approx(np.sqrt(25 + 64 * 128 / 255), rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.2)


def test_the_published_presets_run():
    sample = scene_sample(2)
    pair = augment(sample, replace(mef_augmentation(), height=140, width=140), np.random.default_rng(0))
    assert pair.images[0].shape == (140, 140, 3)
    assert (pair.images[0][pair.masks[0] == 0] == 0).all()
    assert augment(sample, three_d_pov_augmentation(), np.random.default_rng(0)).images[0].shape == (224, 224, 3)


def test_height_without_width_is_an_error():
    with pytest.raises(ConfigError, match="both"):
        AugmentationConfig(height=224)


def test_boxes_follow_the_corners_they_hold():
    sample = scene_sample()
    boxes = np.tile([40.0, 30.0, 80.0, 70.0], (4, 1))
    boxes[2] = np.nan
    sample = replace(sample, objects=(replace(sample.objects[0], boxes_px=boxes),))
    halved = warp_sample(sample, [resized(view, 80, 60) for view in views_of(sample)])
    np.testing.assert_allclose(halved.objects[0].boxes_px[[0, 1, 3]], np.tile([19.75, 14.75, 39.75, 34.75], (3, 1)))
    assert np.isnan(halved.objects[0].boxes_px[2]).all()
