"""The convolutional head of MoGe (Wang et al., CVPR 2025) as Pi3X and TrajVG use it: tokens are enlarged eight times in three steps, then to pixels.

Facts: yyfz/Pi3 pi3/models/layers/conv_head.py. Attribute names are the checkpoints'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.parts.blocks import checkpointed

_GROUP_CHANNELS = 32
_RESIDUAL_BLOCKS = 2
_RESIDUAL_RATIO = 2
_UV_CHANNELS = 2


class _ResidualBlock(nn.Module):
    """x + conv(ReLU(norm(conv(ReLU(norm(x)))))) over (batch, dim, rows, cols): one group, then groups of 32 channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = _RESIDUAL_RATIO * dim
        self.layers = nn.Sequential(
            nn.GroupNorm(1, dim),
            nn.ReLU(),
            _replicate_conv(dim, hidden),
            nn.GroupNorm(max(1, hidden // _GROUP_CHANNELS), hidden),
            nn.ReLU(),
            _replicate_conv(hidden, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _replicate_conv(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1, padding_mode="replicate")


def _doubling(num_in: int, num_out: int) -> nn.Sequential:
    """Twice the size; starts without a checkerboard, as all four taps of the enlargement begin equal."""
    enlarge = nn.ConvTranspose2d(num_in, num_out, 2, stride=2)
    with torch.no_grad():
        enlarge.weight.copy_(enlarge.weight[:, :, :1, :1].clone().expand_as(enlarge.weight))
    return nn.Sequential(enlarge, _replicate_conv(num_out, num_out))


class ConvHead(nn.Module):
    """Token maps to one or several maps of pixels.

    Before every enlargement and before the last convolutions two channels tell where a cell lies in the image (`view_plane`).
    dims: channels after each doubling; outputs: channels of each map that is returned.
    """

    def __init__(self, dim_in: int, dims: Sequence[int], outputs: Sequence[int], hidden_dim: int = 32) -> None:
        super().__init__()
        ins = (dim_in, *dims[:-1])
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(_doubling(num_in + _UV_CHANNELS, num_out), *(_ResidualBlock(num_out) for _ in range(_RESIDUAL_BLOCKS)))
            for num_in, num_out in zip(ins, dims, strict=True)
        )
        self.output_block = nn.ModuleList(
            nn.Sequential(_replicate_conv(dims[-1] + _UV_CHANNELS, hidden_dim), nn.ReLU(), nn.Conv2d(hidden_dim, num_out, 1)) for num_out in outputs
        )

    def forward(self, x: Tensor, height_px: int, width_px: int, checkpointing: bool = False) -> list[Tensor]:
        """x (batch, dim_in, rows, cols) → a map (batch, outputs[i], height_px, width_px) for each of the outputs."""
        aspect = width_px / height_px
        for block in self.upsample_blocks:
            x = checkpointed(block, _with_view_plane(x, aspect), enabled=checkpointing)
        x = functional.interpolate(x, (height_px, width_px), mode="bilinear", align_corners=False)
        x = _with_view_plane(x, aspect)
        return [checkpointed(block, x, enabled=checkpointing) for block in self.output_block]


def _with_view_plane(x: Tensor, aspect: float) -> Tensor:
    """x (batch, dim, rows, cols) → (batch, dim + 2, rows, cols)"""
    plane = view_plane(x.shape[-2], x.shape[-1], aspect).to(device=x.device, dtype=x.dtype)
    return torch.cat([x, plane.expand(x.shape[0], -1, -1, -1)], dim=1)


def view_plane(rows: int, cols: int, aspect: float) -> Tensor:
    """(2, rows, cols): where each cell centre lies, as (x, y), in units of half the image's diagonal. aspect: width / height of the image."""
    half_height = 1 / math.sqrt(1 + aspect**2)
    half_width = aspect * half_height
    x = torch.linspace(-half_width * (cols - 1) / cols, half_width * (cols - 1) / cols, cols)
    y = torch.linspace(-half_height * (rows - 1) / rows, half_height * (rows - 1) / rows, rows)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))
