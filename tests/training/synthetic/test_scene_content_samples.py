"""Rendered procedural clips: independence of the batch, exact tracks, effects that leave the truth alone, the data set `scenes`."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception.core.errors import ConfigError, InputError
from perception.geometry import se3
from perception.geometry.camera import project, unproject
from perception_training.data.readers import open_dataset
from perception_training.data.sample import Sample
from perception_training.data.synthetic.scenes.clips import render_clips
from perception_training.data.synthetic.scenes.config import EffectsConfig, ScenesConfig
from perception_training.data.synthetic.scenes.generator import make_scenes
from perception_training.data.synthetic.scenes.image_effects import jpeg
from perception_training.data.synthetic.scenes.samples import ProceduralClip, clip_samples, render_clip

SMALL = ScenesConfig(height=40, width=48, num_frames=3, num_tracks=48, num_textures=8, clips_per_texture_set=64, outdoors_weight=0.1)
STRONG = EffectsConfig(
    share_motion_blur=1.0,
    share_exposure_drift=1.0,
    share_defocus=1.0,
    share_jpeg=1.0,
    max_noise=0.05,
    max_gain=0.5,
    max_gamma=0.6,
    max_saturation=0.9,
)
PLAIN = EffectsConfig(
    share_motion_blur=0.0, share_exposure_drift=0.0, share_defocus=0.0, share_jpeg=0.0, max_noise=0.0, max_gain=0.0, max_gamma=0.0, max_saturation=0.0
)


@lru_cache(maxsize=32)
def sample(seed: int) -> Sample:
    return render_clip(SMALL, seed)


def test_a_clip_is_the_same_in_any_batch() -> None:
    alone = clip_samples(render_clips(SMALL, [7]))[0]
    together = clip_samples(render_clips(SMALL, [3, 7, 12]))[1]
    for name in ("depth_m", "masks", "images"):
        for a, b in zip(getattr(alone, name), getattr(together, name), strict=True):
            assert np.abs(a.astype(float) - b.astype(float)).max() <= (1 if name == "images" else 1e-5), name
    np.testing.assert_allclose(alone.tracks.points_px, together.tracks.points_px, atol=1e-5)
    assert (alone.tracks.visible == together.tracks.visible).all()


def test_autocast_around_the_renderer_changes_nothing() -> None:
    """Evaluations of a training in bfloat16 render under it."""
    config = replace(SMALL, effects=STRONG)
    plain = render_clip(config, 5, (0, 2))
    with torch.autocast("cpu", torch.bfloat16):
        cast = render_clip(config, 5, (0, 2))
    assert all((a == b).all() for a, b in zip(plain.images, cast.images, strict=True))


def test_a_frame_is_the_same_whatever_frames_are_loaded_with_it() -> None:
    clip, whole = ProceduralClip(SMALL, 4), sample(4)
    part = clip.load([2, 0])
    assert part.frame_names == ("0002", "0000")
    for place, frame in enumerate((2, 0)):
        assert np.abs(part.images[place].astype(int) - whole.images[frame]).max() <= 1
        np.testing.assert_allclose(part.depth_m[place], whole.depth_m[frame], atol=1e-5)
    np.testing.assert_array_equal(clip.world_from_camera, whole.world_from_camera)


def test_scenes_are_made_at_any_times() -> None:
    scene = make_scenes(SMALL, [1, 2], np.array([0.0, 0.01, 0.02, 0.03, 0.04]))
    assert (scene.num_clips, scene.num_frames) == (2, 5)
    assert (scene.exposure > 0).all()
    middle = (scene.world_from_primitive[:, 1] + scene.world_from_primitive[:, 3]) / 2
    assert (middle - scene.world_from_primitive[:, 2]).abs().max() < 5e-3


def test_brightness_and_shares_of_motion_and_visibility_are_sane_over_many_seeds() -> None:
    samples = [sample(seed) for seed in range(16)]
    means = np.array([np.mean(found.images) for found in samples])
    assert ((means > 60) & (means < 180)).mean() > 0.85, means
    dynamic = np.array([np.mean(found.dynamic) for found in samples])
    assert (dynamic > 0.002).mean() > 0.3, dynamic
    assert dynamic.mean() < 0.5
    visible = np.array([found.tracks.visible.mean() for found in samples])
    assert visible.min() > 0.25, visible
    assert visible.mean() > 0.6, visible
    nearest = np.array([np.quantile(found.depth_m[0][found.depth_m[0] > 0], 0.05) for found in samples])
    assert nearest.min() > 0.05


def test_half_of_the_tracks_lie_on_moving_surfaces_where_enough_is_seen() -> None:
    for seed in range(16):
        found = sample(seed)
        if np.mean(found.dynamic) > 0.05:
            at_query = [found.dynamic[f][int(y), int(x)] for f, (x, y) in queries(found)]
            assert 0.3 <= np.mean(at_query) <= 0.6


def queries(found: Sample) -> list[tuple[int, np.ndarray]]:
    """Frame and pixel in which each point was picked."""
    frames = found.tracks.query_frames
    return [(int(frame), np.rint(found.tracks.points_px[frame, number])) for number, frame in enumerate(frames)]


def test_static_points_reproject_within_a_hundredth_of_a_pixel() -> None:
    checked = 0
    for seed in range(8):
        found = sample(seed)
        for number, (frame, pixel) in enumerate(queries(found)):
            x, y = pixel.astype(int)
            if found.dynamic[frame][y, x]:
                continue
            lifted = unproject(pixel[None], found.depth_m[frame][y, x].astype(np.float64)[None], found.cameras[frame])
            world = se3.transform_points(found.world_from_camera[frame], lifted)
            for other in range(len(found)):
                in_camera = se3.transform_points(se3.inverse(found.world_from_camera[other]), world)
                if in_camera[0, 2] > 0.05:
                    error = np.abs(project(in_camera, found.cameras[other]) - found.tracks.points_px[other, number]).max()
                    assert error < 0.01, (seed, number, error)
                    checked += 1
    assert checked > 300


def test_tracked_points_keep_their_place_on_their_object() -> None:
    for seed in range(8):
        found = sample(seed)
        by_mask = {item.mask_id: item for item in found.objects}
        for number, (frame, pixel) in enumerate(queries(found)):
            item = by_mask.get(int(found.masks[frame][int(pixel[1]), int(pixel[0])]))
            if item is None:
                continue
            world_from_object = found.world_from_camera @ item.camera_from_object
            point = np.append(found.tracks.points_world[:, number], np.ones((len(found), 1)), 1)[..., None].astype(np.float64)
            local = (se3.inverse(world_from_object) @ point)[:, :3, 0]
            assert np.abs(local - local[frame]).max() < 1e-4
            assert (local > item.bounds[0] - 1e-3).all()
            assert (local < item.bounds[1] + 1e-3).all()


def test_clips_without_tracks() -> None:
    sample = render_clip(ScenesConfig(height=24, width=32, num_frames=2, num_tracks=0), 3)
    assert sample.tracks is not None
    assert sample.tracks.points_px.shape == (2, 0, 2)


def test_effects_change_images_only() -> None:
    strong, plain = (render_clip(replace(SMALL, effects=effects), 9) for effects in (STRONG, PLAIN))
    assert np.abs(np.stack(strong.images).astype(int) - np.stack(plain.images)).mean() > 2
    for name in ("depth_m", "masks", "dynamic", "normals"):
        assert np.array_equal(np.stack(getattr(strong, name)), np.stack(getattr(plain, name))), name
    assert np.array_equal(strong.tracks.points_px, plain.tracks.points_px)
    assert np.array_equal(strong.world_from_camera, plain.world_from_camera)
    again = render_clip(replace(SMALL, effects=STRONG), 9)
    assert np.array_equal(np.stack(strong.images), np.stack(again.images))


def test_jpeg_is_close_to_what_opencv_makes_of_the_same_quality() -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 1, (45, 52, 3)).astype(np.float32), (0, 0), 2)
    image = np.clip((smooth - 0.5) * 4 + 0.5, 0, 1)
    own = jpeg(torch.from_numpy(image).permute(2, 0, 1)[None], 50)[0].permute(1, 2, 0).numpy()
    flags = [cv2.IMWRITE_JPEG_QUALITY, 50, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    theirs = cv2.imdecode(cv2.imencode(".jpg", np.round(image[..., ::-1] * 255).astype(np.uint8), flags)[1], cv2.IMREAD_COLOR)[..., ::-1] / 255
    assert np.abs(own - theirs).mean() < 0.006
    assert np.abs(own - image).mean() > 2 * np.abs(own - theirs).mean()


def test_the_data_set_is_opened_by_name_and_its_sequences_can_be_pickled(tmp_path: Path) -> None:
    options = {"num_clips": 5, "first_seed": 10, "scenes.height": 40, "scenes.width": 48, "scenes.num_frames": 3, "scenes.num_textures": 8}
    data = open_dataset("scenes", tmp_path, options)
    assert data.sequence_names == ("00000010", "00000011", "00000012", "00000013", "00000014")
    clip = pickle.loads(pickle.dumps(data[2]))
    assert clip.load([1]).images[0].shape == (40, 48, 3)
    assert data.open_sequence("00000099").name == "00000099"
    with pytest.raises(InputError, match="must be a seed"):
        data.open_sequence("kitchen")
    with pytest.raises(InputError, match=r"frame 3 .*\[0, 3\)"):
        data[0].load([3])


def test_the_root_may_be_a_settings_file_or_a_folder_of_photographs(tmp_path: Path) -> None:
    (tmp_path / "scenes.yaml").write_text("num_clips: 3\nscenes: {height: 40, width: 48, num_frames: 2}\n")
    data = open_dataset("scenes", tmp_path / "scenes.yaml")
    assert len(data) == 3
    assert len(data[0]) == 2
    with pytest.raises(InputError, match="one place"):
        open_dataset("scenes", tmp_path / "scenes.yaml", {"num_clips": 4})
    cv2.imwrite(str(tmp_path / "photograph.png"), np.full((64, 64, 3), 90, np.uint8))
    assert open_dataset("scenes", tmp_path).open_sequence("0").config.texture_folder == str(tmp_path)


def test_ranges_upside_down_are_refused() -> None:
    with pytest.raises(ConfigError, match="must not exceed"):
        ScenesConfig(focal=(1.7, 0.7))
    with pytest.raises(ConfigError, match="one must be positive"):
        ScenesConfig(room_weight=0.0, table_top_weight=0.0, outdoors_weight=0.0)
