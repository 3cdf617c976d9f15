"""Samples with different fields in one batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.miniatures.samples import scene_sample

from perception.core.errors import InputError
from perception.core.types import Camera
from perception_training.data.collation import collate
from perception_training.data.sample import Sample, Tracks


def bare(num_frames=4, width=160, height=120):
    return Sample("bare", "clip", tuple(map(str, range(num_frames))), tuple(np.full((height, width, 3), 7, np.uint8) for _ in range(num_frames)))


def test_a_full_sample_arrives_unchanged():
    sample = scene_sample()
    batch = collate([sample, sample])
    assert len(batch) == 2
    assert batch.images.shape == (2, 4, 3, 120, 160)
    np.testing.assert_array_equal(batch.images[1, 2].permute(1, 2, 0).numpy(), sample.images[2])
    np.testing.assert_array_equal(batch.intrinsics[0, 0].numpy(), sample.cameras[0].matrix)
    np.testing.assert_array_equal(batch.world_from_camera[1].numpy(), sample.world_from_camera)
    np.testing.assert_array_equal(batch.depth_m[0, 3].numpy(), sample.depth_m[3])
    np.testing.assert_array_equal(batch.masks[0, 3].numpy(), sample.masks[3])
    np.testing.assert_array_equal(batch.dynamic[0, 3].numpy(), sample.dynamic[3])
    np.testing.assert_array_equal(batch.normals[0, 1].permute(1, 2, 0).numpy(), sample.normals[1])
    np.testing.assert_array_equal(batch.track_points_px[0].numpy(), sample.tracks.points_px)
    np.testing.assert_array_equal(batch.track_points_world[0].numpy(), sample.tracks.points_world)
    np.testing.assert_array_equal(batch.track_visible[0].numpy(), sample.tracks.visible)
    assert batch.track_known.all()
    assert batch.has_depth.all()
    assert batch.has_pose.all()
    assert batch.has_camera.all()
    assert batch.is_metric.all()
    assert batch.objects[0][0].name == "box"
    assert batch.texts == ("a box and a ball",) * 2


def test_what_a_sample_lacks_is_flagged_and_neutral():
    batch = collate([scene_sample(), bare()])
    assert batch.has_depth.tolist() == [[True] * 4, [False] * 4]
    assert batch.has_pose.tolist() == [[True] * 4, [False] * 4]
    assert batch.has_camera.tolist() == [[True] * 4, [False] * 4]
    assert batch.has_masks.tolist() == [[True] * 4, [False] * 4]
    for flag in (batch.has_normals, batch.has_dynamic):
        assert flag.tolist() == [True, False]
    assert (batch.depth_m[1] == 0).all()
    assert torch.equal(batch.world_from_camera[1, 0], torch.eye(4, dtype=torch.float64))
    assert torch.equal(batch.intrinsics[1, 0], torch.eye(3, dtype=torch.float64))
    assert not batch.track_known[1].any()
    assert batch.times_s[1].isnan().all()
    assert batch.texts[1] is None


def test_a_frame_whose_mask_is_not_annotated_is_flagged():
    annotated = np.array([True, False, True, False])
    batch = collate([replace(scene_sample(), mask_known=annotated, attributes={"split": "train"})])
    assert batch.has_masks.tolist() == [annotated.tolist()]
    assert batch.attributes == ({"split": "train"},)


def test_nothing_but_images_makes_no_maps():
    batch = collate([bare(), bare()])
    assert batch.depth_m is None
    assert batch.masks is None
    assert batch.track_points_px is None
    assert not batch.has_depth.any()


def test_single_frames_without_pose_camera_or_depth_are_flagged():
    sample = scene_sample()
    poses = sample.world_from_camera.copy()
    poses[1] = np.nan
    cameras = (*sample.cameras[:2], None, sample.cameras[3])
    depth = (*sample.depth_m[:3], np.zeros_like(sample.depth_m[3]))
    batch = collate([replace(sample, world_from_camera=poses, cameras=cameras, depth_m=depth)])
    assert batch.has_pose[0].tolist() == [True, False, True, True]
    assert batch.has_camera[0].tolist() == [True, True, False, True]
    assert batch.has_depth[0].tolist() == [True, True, True, False]
    assert all(tensor.isfinite().all() for name, tensor in batch.tensors().items() if tensor.is_floating_point() and name != "times_s")


def test_tracks_are_padded_and_unknown_points_are_zero_not_nan():
    sample = scene_sample()
    points = sample.tracks.points_px.copy()
    points[2, 1] = np.nan
    short = Tracks(points[:, :5], sample.tracks.visible[:, :5], query_frames=np.arange(5))
    batch = collate([sample, replace(sample, tracks=short)])
    assert batch.track_points_px.shape[2] == sample.tracks.num_points
    assert batch.track_known[1].sum() == 4 * 5 - 1
    assert (batch.track_points_px[1, 2, 1] == 0).all()
    assert not batch.track_world_known[1].any()
    assert batch.track_query_frames[1, :6].tolist() == [0, 1, 2, 3, 4, -1]


def test_different_sizes_are_refused_by_name():
    with pytest.raises(InputError, match=r"bare/clip/0 is 100x120, miniature/scene/frame0 is 160x120"):
        collate([scene_sample(), bare(width=100)])
    with pytest.raises(InputError, match="bare/clip has 3 frames, miniature/scene has 4"):
        collate([scene_sample(), bare(3)])
    with pytest.raises(InputError, match="no samples"):
        collate([])


def test_a_distorting_lens_is_refused_by_name():
    lens = Camera(160, 120, 144.0, 144.0, 80.0, 60.0, "plumb_bob", (0.1, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"bare/clip/2 distorts \(plumb_bob\).*undistort"):
        collate([replace(bare(), cameras=(None, None, lens, None))])


def test_a_batch_moves_between_devices_with_all_its_tensors():
    batch = collate([scene_sample()])
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in moved.tensors().values())
    assert moved.tensors().keys() == batch.tensors().keys()
    assert moved.sequences == batch.sequences
