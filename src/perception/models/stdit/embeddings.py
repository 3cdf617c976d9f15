"""How latents, diffusion steps and captions become tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from perception.models.parts.blocks import Mlp

_FREQUENCY_DIM = 256
_MAX_PERIOD = 10000.0


class LatentEmbedder(nn.Module):
    """One linear map for each patch of one frame. Key: proj, as a convolution over time, rows and columns."""

    def __init__(self, num_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        size = (1, patch_size, patch_size)
        self.proj = nn.Conv3d(num_channels, dim, size, stride=size)

    def forward(self, latents: Tensor) -> Tensor:
        """latents (batch, channels, frames, height, width) → (batch, frames * rows * cols, dim), frame by frame, row by row."""
        return self.proj(latents).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """Diffusion steps to vectors: cosines, then sines, through two linear layers. Keys: mlp.0, mlp.2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCY_DIM, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timesteps: Tensor) -> Tensor:
        """timesteps (batch,), in [0, 1000) and not always whole → (batch, dim)"""
        half = _FREQUENCY_DIM // 2
        frequencies = torch.exp(-math.log(_MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(next(self.mlp.parameters()).dtype))


class CaptionEmbedder(nn.Module):
    """Caption features to tokens. Keys: y_proj, and the buffer y_embedding: the learned empty prompt, in the place of caption features."""

    y_embedding: Tensor

    def __init__(self, caption_dim: int, dim: int, num_tokens: int) -> None:
        super().__init__()
        self.y_proj = Mlp(caption_dim, dim, dim, approximate="tanh")
        self.register_buffer("y_embedding", torch.randn(num_tokens, caption_dim) / caption_dim**0.5)

    def forward(self, captions: Tensor, dropped: Tensor | None = None) -> Tensor:
        """captions (batch, tokens, caption_dim) → (batch, tokens, dim); those that are `dropped` (batch,) become the empty prompt."""
        if dropped is not None:
            captions = torch.where(dropped[:, None, None], self.y_embedding.to(captions.dtype), captions)
        return self.y_proj(captions.to(self.y_proj.fc1.weight.dtype))
