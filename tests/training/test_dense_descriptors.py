"""Pretraining of dense descriptors: homographies and correspondences are exact, the loss sees what it should, the recipe's debug twin learns."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from perception.core.errors import ConfigError, InputError, WeightsError
from perception.geometry import se3
from perception.geometry.camera import project
from perception.models.extractor import ExtractorConfig
from perception.models.nano import NanoConfig
from perception.models.registry import create_extractor
from perception_training.data.collation import collate
from perception_training.data.synthetic.homographies import Homographies, HomographiesConfig
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import render_clip
from perception_training.loop.training import train
from perception_training.methods.dense_descriptors import DenseDescriptors, DenseDescriptorsConfig, descriptor_loss, matching_errors_px
from perception_training.methods.view_correspondences import draw_correspondences
from perception_training.recipes.nano import nano_mef_debug, nano_pretrain, nano_pretrain_debug

PAIRS = HomographiesConfig(height=96, width=128, scale=(1.0, 2.0), shift=0.05)


def pair(seed: int, config: HomographiesConfig = PAIRS):
    return Homographies(config).open_sequence(f"{seed:08d}").load((0, 1))


class KnownPlaces(nn.Module):
    """A network that reads descriptors off the image: each pixel's colours name its place exactly."""

    multiple_px, stride_px, offset_px, dim = 4, 4, 1.5, 3

    def forward(self, images):
        return nn.functional.avg_pool2d(images - 0.5, 4)


# homographies


@pytest.mark.parametrize("seed", range(6))
def test_depth_and_poses_carry_one_view_of_a_photograph_onto_the_other(seed):
    sample = pair(seed, replace(PAIRS, max_tilt_deg=30.0, scale=(0.5, 0.9)))
    points = sample.points_world(0)
    known = np.isfinite(points).all(-1)
    assert np.abs(points[known][:, 2]).max() < 1e-5  # the photograph lies in z = 0
    camera = sample.cameras[1]
    places = project(se3.transform_points(se3.inverse(sample.world_from_camera[1]), points.reshape(-1, 3).astype(np.float64)), camera)
    places = np.nan_to_num(places, nan=-9).reshape(*known.shape, 2).astype(np.float32)
    inside = known & ((places > 1) & (places < (camera.width - 2, camera.height - 2))).all(-1)
    carried = cv2.remap(sample.images[1], places[..., 0], places[..., 1], cv2.INTER_LINEAR)
    assert inside.mean() > 0.1
    off = cv2.remap(sample.images[1], places[..., 0] + 3, places[..., 1], cv2.INTER_LINEAR)
    error, error_off = (np.abs(image.astype(float) - sample.images[0])[inside].mean() for image in (carried, off))
    assert error < 4
    assert error < error_off


def test_a_pair_is_a_function_of_its_seed_and_config_only():
    first, again, other = pair(3), pair(3), pair(4)
    assert all(np.array_equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert not np.array_equal(first.images[0], other.images[0])
    sequence = Homographies(PAIRS).open_sequence("00000003")
    np.testing.assert_array_equal(sequence.world_from_camera, first.world_from_camera)
    np.testing.assert_array_equal(sequence.load((1,)).images[0], first.images[1])


def test_wrong_frames_seeds_and_ranges_are_named():
    with pytest.raises(InputError, match=r"homographies/00000000: frame 2 was asked for; must be 0 or 1"):
        Homographies(PAIRS).open_sequence("00000000").load((2,))
    with pytest.raises(InputError, match="sequence 'cat': must be a seed"):
        Homographies(PAIRS).open_sequence("cat")
    with pytest.raises(ConfigError, match=r"HomographiesConfig.scale = \[2.0, 1.0\]: the first must not exceed the second"):
        HomographiesConfig(scale=(2, 1))


# correspondences


def test_correspondences_are_those_of_the_homography():
    sample = pair(1)
    found = draw_correspondences(collate([sample]), 0, 1, 500, 0.02, torch.Generator().manual_seed(0))
    query, item = (points[0][found.valid[0]].double().numpy() for points in (found.query_px, found.item_px))
    assert len(query) > 50
    plane_columns = [0, 1, 3]
    first, second = (
        camera.matrix @ se3.inverse(pose)[:3, plane_columns] for camera, pose in zip(sample.cameras, sample.world_from_camera, strict=True)
    )
    expected = np.concatenate([query, np.ones((len(query), 1))], axis=1) @ (second @ np.linalg.inv(first)).T
    np.testing.assert_allclose(item, expected[:, :2] / expected[:, 2:], atol=1e-3)


def test_hidden_moving_and_unseen_surfaces_have_no_counterpart():
    sample = pair(1)
    batch = collate([sample])
    whole = draw_correspondences(batch, 0, 1, 400, 0.02, torch.Generator().manual_seed(0)).valid.sum()
    nearer = replace(batch, depth_m=batch.depth_m * torch.tensor([1.0, 0.9]).view(1, 2, 1, 1))  # something stands before it
    moving = replace(batch, dynamic=torch.ones_like(batch.depth_m, dtype=torch.bool))
    unknown = replace(batch, depth_m=batch.depth_m * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))
    masks = torch.zeros_like(batch.depth_m, dtype=torch.int32)
    masks[:, 1] = 7
    other_body = replace(batch, masks=masks, has_masks=torch.ones(1, 2, dtype=torch.bool))
    not_annotated = replace(batch, masks=masks, has_masks=torch.zeros(1, 2, dtype=torch.bool))
    counts = [
        int(draw_correspondences(case, 0, 1, 400, 0.02, torch.Generator().manual_seed(0)).valid.sum())
        for case in (nearer, moving, unknown, other_body, not_annotated)
    ]
    assert counts == [0, 0, 0, 0, int(whole)]


def test_correspondences_of_a_scene_agree_with_its_tracks():
    """Tracks are followed in float64 by another part of the code; depth and poses must carry their static points to the same places."""
    config = ScenesConfig(
        height=64, width=96, num_frames=2, frame_rate_hz=2, num_parts=(4, 8), num_textures=2, num_moving=(0, 0), num_articulated=(0, 0)
    )
    sample = render_clip(config, 5)
    batch = collate([sample])
    both = sample.tracks.visible.all(0) & (np.abs(sample.tracks.points_px[0] - sample.tracks.points_px[0].round()) < 1e-3).all(-1)
    found = draw_correspondences(batch, 0, 1, 60_000, 0.02, torch.Generator().manual_seed(0))
    places = {tuple(point): place for point, place, ok in zip(found.query_px[0].tolist(), found.item_px[0], found.valid[0], strict=True) if ok}
    compared = [
        float((places[tuple(np.rint(start).tolist())] - torch.from_numpy(end)).norm())
        for start, end in sample.tracks.points_px.transpose(1, 0, 2)[both]
        if tuple(np.rint(start).tolist()) in places
    ]
    assert len(compared) > 10
    assert max(compared) < 0.1


def test_views_without_poses_are_named():
    sample = replace(pair(0), world_from_camera=None)
    with pytest.raises(InputError, match=r"homographies/00000000/0000: correspondences need depth with intrinsics and pose"):
        draw_correspondences(collate([sample]), 0, 1, 10, 0.02)


# loss and evaluation


def colourful_pair(shift_cells: int = 4):
    """Two views of a plane of smooth colours, the second moved sideways by whole cells, and the batch of them."""
    sample = pair(0)
    height, width = sample.images[0].shape[:2]
    x, y = np.meshgrid(np.arange(2 * width), np.arange(height))
    # Nearby colours have nearly the same direction, far ones do not.
    colours = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(x / 40), 128 + (y - height / 2)], axis=-1).astype(np.uint8)
    shift = 4 * shift_cells
    images = (colours[:, :width].copy(), colours[:, shift : shift + width].copy())
    camera = replace(sample.cameras[0], fx=100.0, fy=100.0)
    poses = np.stack([np.eye(4), np.eye(4)])
    poses[1, 0, 3] = shift / 100
    depth = np.ones((height, width), np.float32)
    return collate([replace(sample, images=images, cameras=(camera, camera), world_from_camera=poses, depth_m=(depth, depth))])


def test_descriptors_that_name_the_place_find_it_and_have_a_lower_loss_than_shuffled_views():
    batch = colourful_pair()
    module, config = DenseDescriptors(KnownPlaces()), DenseDescriptorsConfig(num_queries=200, excluded_px=10.0)
    errors = matching_errors_px(module, batch, 200, 0.02, torch.Generator().manual_seed(0))
    assert len(errors) == 200
    assert errors.median() < 4
    wrong = replace(batch, images=batch.images.flip(-1))
    torch.manual_seed(0)
    right_loss = descriptor_loss(module, batch, config)
    assert right_loss < descriptor_loss(module, wrong, config) - 0.5


def test_views_that_share_nothing_give_no_loss_and_no_gradient():
    batch = colourful_pair()
    apart = replace(batch, depth_m=torch.zeros_like(batch.depth_m))
    images = torch.nn.Parameter(torch.zeros(()))

    class Learned(KnownPlaces):
        def forward(self, pixels):
            return super().forward(pixels) + images

    loss = descriptor_loss(DenseDescriptors(Learned()), apart, DenseDescriptorsConfig())
    loss.backward()
    assert loss == 0
    assert images.grad == 0


def test_images_of_any_size_give_the_cells_inside_them():
    module = DenseDescriptors(KnownPlaces())
    assert module(torch.zeros(2, 3, 50, 70, dtype=torch.uint8)).shape == (2, 3, 13, 18)
    assert (module.grid.offset_px, module.grid.stride_px) == ((1.5, 1.5), (4.0, 4.0))


# the recipe


def test_the_debug_twin_learns_and_its_file_is_an_extractor(tmp_path):
    recipe = nano_pretrain_debug()
    recipe = replace(recipe, train=replace(recipe.train, out=str(tmp_path), evaluate_at=(0,)))
    torch.manual_seed(0)
    task = recipe.build()
    fixed = collate([task.mixture[number] for number in range(4)])

    def loss() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(descriptor_loss(task.module, fixed, recipe.loss))

    before = loss()
    result = train(recipe)
    task = result.task
    assert loss() < 0.9 * before
    assert set(result.evaluations[20]) == {"pck_4px", "pck_8px"}
    weights = tmp_path / "export" / "nano.safetensors"
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    descriptors, _ = create_extractor(ExtractorConfig(extractor="nano", weights=str(weights), precision="float32")).extract(image)
    task.module.eval()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = task.module(pixels)[0]
    assert descriptors.shape == expected.shape
    assert torch.cosine_similarity(descriptors, expected, dim=0).mean() > 0.5  # the file holds the running mean of the weights
    resumed = replace(recipe, start=str(weights)).build()
    assert resumed.module.network.config == recipe.network
    with pytest.raises(WeightsError, match=r"nano\.safetensors: are of NanoConfig"):
        replace(recipe, start=str(weights), network=NanoConfig()).build()


def test_mef_finetuning_of_nano_ends_in_a_weights_file_of_nano(tmp_path):
    recipe = nano_mef_debug()
    result = train(
        replace(
            recipe,
            train=replace(recipe.train, out=str(tmp_path), steps=2, evaluate_at=(), ema_decay=0.0),
            pairs=replace(recipe.pairs, num_held_out=0),
        )
    )
    weights = str(tmp_path / "export" / "nano.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    descriptors, _ = create_extractor(ExtractorConfig(extractor="nano", weights=weights, precision="float32")).extract(image)
    with torch.no_grad():
        expected = nn.functional.normalize(result.task.module(torch.from_numpy(image).permute(2, 0, 1)[None])[0], dim=0)
    assert torch.cosine_similarity(descriptors, expected, dim=0).min() > 0.999
    untrained, _ = create_extractor(ExtractorConfig(extractor="tiny_nano", precision="float32")).extract(image)
    assert not torch.equal(untrained, descriptors)


def test_batches_are_functions_of_seed_and_number():
    recipe = nano_pretrain_debug()
    first, again = recipe.build(), recipe.build()
    batch = next(iter(first.data(2, 0, 1)))
    torch.testing.assert_close(next(iter(again.data(2, 0, 1))).images, batch.images)
    other = replace(recipe, train=replace(recipe.train, seed=1)).build()
    assert not torch.equal(next(iter(other.data(2, 0, 1))).images, batch.images)


def test_missing_shards_and_data_of_weight_0_are_named(tmp_path):
    recipe = nano_pretrain()
    with pytest.raises(InputError, match="nowhere"):
        replace(recipe, data=replace(recipe.data, shards=(str(tmp_path / "nowhere"),))).build()
    with pytest.raises(ConfigError, match="scenes_weight and homographies_weight are both 0"):
        replace(recipe, data=replace(recipe.data, scenes_weight=0.0, homographies_weight=0.0)).build()
