"""Finished clips: images with effects, the truth of every pixel, and tracks of points, many clips in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.generator import frame_times, metered_exposure, scenes_of
from perception_training.data.synthetic.scenes.image_effects import ClipEffects, draw_effects, finished
from perception_training.data.synthetic.scenes.plan import ClipPlan, plan_clip
from perception_training.data.synthetic.scenes.render import Truth, render
from perception_training.data.synthetic.scenes.scene import SceneBatch
from perception_training.data.synthetic.scenes.trajectories import Trajectories, trajectories

_CANDIDATES_PER_TRACK = 16
_SHIFTS_PX = np.array([[0.25, 0.25], [-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25]])
"""Where in a pixel the rays of one pixel lie in turn."""


@dataclass(frozen=True, eq=False)
class Clips:
    """B clips of T frames on one device.

    images (B, T, 3, H, W) uint8 · truth: of the pixel centres at times_s · scene: primitives, cameras and poses at times_s · times_s (B, T) ·
    queries (B, N, 3): frame, x, y of the tracked points (frame -1: none was found) · tracks: their exact trajectories · plans: of the clips.
    """

    images: Tensor
    truth: Truth
    scene: SceneBatch
    times_s: NDArray[np.float64]
    queries: Tensor
    tracks: Trajectories
    plans: tuple[ClipPlan, ...]


def render_clips(config: ScenesConfig, seeds: Sequence[int], device: torch.device | str = "cpu", frames: Sequence[int] | None = None) -> Clips:
    """Render one clip for each seed, on a GPU in one go. frames: indices of the frames wanted, the same for all clips; default all.

    A frame looks the same whatever other frames and clips are rendered with it; tracked points are picked among the frames wanted. Autocast does
    not reach in here.
    """
    if not seeds:
        raise InputError("seeds of scenes: none given; must be at least one")
    with torch.autocast(torch.device(device).type, enabled=False):
        return _rendered(config, seeds, device, frames)


def _rendered(config: ScenesConfig, seeds: Sequence[int], device: torch.device | str, frames: Sequence[int] | None) -> Clips:
    plans = [plan_clip(config, int(seed)) for seed in seeds]
    effects = [draw_effects(config, plan.seed) for plan in plans]
    chosen = list(range(config.num_frames)) if frames is None else list(frames)
    times_s = np.tile(frame_times(config)[chosen], (len(plans), 1))
    scene = scenes_of(plans, times_s, device)
    scene = replace(scene, exposure=metered_exposure(plans, device)[:, None].expand(-1, len(chosen)).contiguous())
    truth = render(scene, images=False).truth
    assert truth is not None
    images = finished(_exposed(plans, effects, scene, times_s), effects, times_s, chosen)
    queries = pick_queries(config, plans, truth, chosen)
    tracks = trajectories(scene, torch.cat([queries[..., :1].clamp(min=0), queries[..., 1:]], -1))
    return Clips(images, truth, scene, times_s, queries, tracks, tuple(plans))


def _exposed(plans: Sequence[ClipPlan], effects: Sequence[ClipEffects], scene: SceneBatch, times_s: NDArray[np.float64]) -> Tensor:
    """(B, T, 3, H, W) linear radiance, the mean of samples spread over each pixel and over each frame's exposure."""
    config = plans[0].config
    count = config.samples_per_pixel
    shutter_s = np.array([clip.shutter for clip in effects]) / config.frame_rate_hz
    phases = (np.arange(count) + 0.5) / count - 0.5
    samples = (times_s[:, :, None] + shutter_s[:, None, None] * phases).reshape(len(plans), -1)
    shift = np.tile(_SHIFTS_PX[np.arange(count) % len(_SHIFTS_PX)] if count > 1 else np.zeros((1, 2)), (len(plans), times_s.shape[1], 1))
    open_scene = scenes_of(plans, samples, scene.device, shift)
    open_scene = replace(open_scene, exposure=scene.exposure.repeat_interleave(count, 1))
    radiance = render(open_scene, truth=False).radiance
    assert radiance is not None
    return radiance.unflatten(1, (-1, count)).mean(2)


def pick_queries(config: ScenesConfig, plans: Sequence[ClipPlan], truth: Truth, frames: Sequence[int]) -> Tensor:
    """(B, N, 3) float64 place of a frame in `frames`, x and y of pixels to be tracked; the place is -1 where no surface was found.

    They are picked among random pixels of all frames: `share_dynamic_tracks` of them on moving surfaces, as far as there are enough."""
    height, width = truth.depth.shape[-2:]
    count = config.num_tracks
    candidates = np.stack([_candidates(plan.seed, count * _CANDIDATES_PER_TRACK, (len(frames), width, height)) for plan in plans])
    pixels = torch.from_numpy(candidates).to(truth.depth.device)
    clip = torch.arange(len(plans), device=pixels.device)[:, None]
    place = (clip, pixels[..., 0], pixels[..., 2], pixels[..., 1])
    is_dynamic, is_surface = truth.dynamic[place], truth.primitive[place] >= 0
    takes_dynamic = is_dynamic & (is_dynamic.cumsum(1) <= round(count * config.share_dynamic_tracks))
    others = is_surface & ~takes_dynamic
    # Other surfaces: static ones first, and moving ones only where static ones do not suffice.
    order = torch.where(takes_dynamic, 0, torch.where(others, torch.where(is_dynamic, 2, 1), 3))
    first = order.argsort(dim=1, stable=True)[:, :count]
    picked = pixels.gather(1, first[..., None].expand(-1, -1, 3)).double()
    picked[..., 0] = torch.where(order.gather(1, first) < 3, picked[..., 0], -1.0)
    return picked


def _candidates(seed: int, count: int, upper: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.random.default_rng((0x7AC, seed)).integers(0, upper, (count, 3))
