"""Batches of procedural clips from seeds. A clip is the same whatever batch it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.image_effects import display_values
from perception_training.data.synthetic.scenes.plan import ClipPlan, plan_clip
from perception_training.data.synthetic.scenes.render import render
from perception_training.data.synthetic.scenes.scene import SceneBatch, concatenate

_METER_SIZE_PX = (16, 32)
_METER_STEPS = 14


def frame_times(config: ScenesConfig) -> NDArray[np.float64]:
    """(T,) seconds: the middle of each frame's exposure."""
    return np.arange(config.num_frames) / config.frame_rate_hz


def make_scenes(
    config: ScenesConfig, seeds: Sequence[int], times_s: NDArray[np.float64] | None = None, device: torch.device | str = "cpu"
) -> SceneBatch:
    """One clip for each seed, at `times_s` (T,) or (clips, T) (default: all frames), exposed for the brightness that the settings ask for."""
    if not seeds:
        raise InputError("seeds of scenes: none given; must be at least one")
    plans = [plan_clip(config, int(seed)) for seed in seeds]
    times = frame_times(config) if times_s is None else times_s
    scene = scenes_of(plans, np.broadcast_to(times, (len(plans), times.shape[-1])), device)
    exposure = metered_exposure(plans, device)
    return replace(scene, exposure=exposure[:, None].expand(-1, scene.num_frames).contiguous())


def scenes_of(
    plans: Sequence[ClipPlan], times_s: NDArray[np.float64], device: torch.device | str, shift_px: NDArray[np.float64] | None = None
) -> SceneBatch:
    """Clips at times_s (clips, T) with exposure 1. shift_px (clips, T, 2): see `ClipPlan.scene`."""
    exact = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", so that a set of textures is kept once
    scenes = [
        plan.scene(times, None if shift_px is None else shift_px[index], str(exact))
        for index, (plan, times) in enumerate(zip(plans, times_s, strict=True))
    ]
    return (concatenate(scenes) if len(scenes) > 1 else scenes[0]).to(device)


def metered_exposure(plans: Sequence[ClipPlan], device: torch.device | str) -> Tensor:
    """(clips,) gain with which a coarse rendering of the first and the last frame has the brightness that the settings ask for.

    The target is drawn from the clip's seed. Display values are clipped, so the gain is found by bisection."""
    config = plans[0].config
    times = np.tile([0.0, config.duration_s], (len(plans), 1))
    scene = scenes_of(plans, times, device)
    scale = scene.intrinsics.new_tensor([_METER_SIZE_PX[1] / config.width, _METER_SIZE_PX[0] / config.height])
    focal, centre = scene.intrinsics[..., :2] * scale, (scene.intrinsics[..., 2:] + 0.5) * scale - 0.5
    radiance = render(replace(scene, intrinsics=torch.cat([focal, centre], -1), image_size=_METER_SIZE_PX), truth=False).radiance
    assert radiance is not None
    targets = [np.random.default_rng((0xE59, plan.seed)).uniform(*config.brightness) for plan in plans]
    target = torch.tensor(targets, dtype=torch.float32, device=radiance.device) / 255
    values = radiance.flatten(1)
    low = torch.full_like(target, np.log(1e-4))
    high = torch.full_like(target, np.log(1e4))
    for _ in range(_METER_STEPS):
        middle = (low + high) / 2
        is_dark = display_values(values * middle.exp()[:, None]).mean(1) < target
        low, high = torch.where(is_dark, middle, low), torch.where(is_dark, high, middle)
    return ((low + high) / 2).exp()
