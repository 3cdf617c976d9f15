"""Video to point maps, as the paper does it: a little noise, one pass, no text."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.core.errors import ConfigError
from perception.models.diffusion import add_noise, linear_schedule
from perception.models.jog3r.network import Jog3r, Reconstruction

_NUM_STEPS = 100
"""The paper's steps 0 to 5 "of 10 % noise" fit a schedule of this length; of 1000 they would be 1 % (our reading)."""


@torch.no_grad()
def reconstruct_clip(network: Jog3r, latents: Tensor, step: int = 0, seed: int = 0) -> Reconstruction:
    """Point maps of a clip's frames in the axes of its first camera, up to one scale.

    latents (batch, channels, frames, height, width), clean · step: how noisy they are made, 0 to 99; the paper takes 0 to 5 and trains with 0 to 10.
    """
    schedule = linear_schedule().respaced(_NUM_STEPS)
    if not 0 <= step < _NUM_STEPS:
        raise ConfigError(f"step = {step}: must lie in [0, {_NUM_STEPS - 1}]")
    index = torch.full((len(latents),), step, device=latents.device)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
    noisy = add_noise(schedule, latents.float(), index, noise)
    return network.reconstruct(network.features(noisy, schedule.timesteps.to(index.device)[index]))
