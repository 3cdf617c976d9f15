"""Latents of a clip for a caption."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.models.diffusion import Guidance, guided, linear_schedule, sample
from perception.models.diffusion.sampling import OnStep
from perception.models.stdit.network import Stdit

LATENT_SCALE = 0.18215
"""The network's latents are those of the image autoencoder (stabilityai/sd-vae-ft-ema, frame by frame) times this."""


def generate_latents(
    network: Stdit,
    captions: Tensor,
    mask: Tensor | None = None,
    *,
    seed: int = 0,
    num_steps: int = 100,
    guidance: Guidance | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """captions (batch, tokens, caption_dim) with mask (batch, tokens), as `Stdit.forward` takes them → (batch, channels, frames, height, width).

    Divide by LATENT_SCALE before decoding. A seed gives the same noise on every device; the noise differs from that of the released code, which draws
    for the empty prompts as well. `on_step(done, total, step)` is called after each step.
    """
    guidance = guidance or Guidance()
    config, batch = network.config, len(captions)
    generator = torch.Generator().manual_seed(seed)
    size = (batch, config.latent_channels, config.num_frames, config.height, config.width)
    noise = torch.randn(size, generator=generator).to(captions.device)
    both = torch.cat([captions, network.null_prompt(batch).to(captions)])
    if mask is not None and guidance.null_mask == "all":
        mask = torch.cat([mask, torch.ones_like(mask)])

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return network(noisy, timesteps, both, mask)

    return sample(linear_schedule().respaced(num_steps), guided(predict, guidance), noise, generator=generator, on_step=on_step)
