"""From decoded tokens to a point and a confidence for every pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception.models.dust3r.config import DecoderConfig
from perception.models.parts.attention import no_autocast
from perception.models.parts.dpt import DptFusion, reassembly_layers
from perception.models.parts.pixel_head import pixels_of_patches

_SMALLEST_LENGTH = 1e-8
_NUM_OUTPUTS = 4  # x, y, z and confidence, all raw
_IMAGES_AT_ONCE = 8


class PointMap(NamedTuple):
    """points (batch, height, width, 3), up to one scale per pair · confidence (batch, height, width), from 1 upwards, no probability."""

    points: Tensor
    confidence: Tensor


def point_map(raw: Tensor) -> PointMap:
    """raw (batch, 4, height, width) → points whose distance is expm1 of the raw vector's length, and confidences 1 + exp."""
    raw = raw.permute(0, 2, 3, 1)
    length = raw[..., :3].norm(dim=-1, keepdim=True)
    points = raw[..., :3] / length.clamp(min=_SMALLEST_LENGTH) * length.expm1()
    return PointMap(points, 1 + raw[..., 3].exp())


class LinearHead(nn.Module):
    """One layer; its outputs are the pixels of a token's patch. Key: proj."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.patch_px = config.patch_px
        self.proj = nn.Linear(config.dec_dim, _NUM_OUTPUTS * config.patch_px**2)

    def forward(self, layers: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """layers: the last is (batch, rows * cols, dec_dim) → raw maps (batch, 4, rows * patch, cols * patch)."""
        return pixels_of_patches(self.proj(layers[-1]), *grid, self.patch_px)


class DPTHead(nn.Module):
    """Convolutions over four layers of tokens (see `parts.dpt`). Key: dpt."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.dpt = _Dpt(config)

    def forward(self, layers: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """layers: four, (batch, rows * cols, width) → raw maps (batch, 4, rows * 16, cols * 16)."""
        return self.dpt([layer.transpose(1, 2).unflatten(2, grid) for layer in layers])


class _Dpt(nn.Module):
    """Keys: act_postprocess, scratch, head."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dims, dim = config.dpt_layer_dims, config.dpt_dim
        widths = [config.feature_dim, *[config.dec_dim] * 3]
        self.act_postprocess = nn.ModuleList(nn.Sequential(*pair) for pair in reassembly_layers(widths, dims))
        self.scratch = DptFusion(dims, dim, "croco")
        self.scratch.refinenet4.resConfUnit1.requires_grad_(False)
        self.head = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1),
            nn.UpsamplingBilinear2d(scale_factor=2),
            nn.Conv2d(dim // 2, dim // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(dim // 2, _NUM_OUTPUTS, 1),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Four maps of tokens (batch, width, rows, cols) → raw maps (batch, 4, rows * 16, cols * 16)"""
        return self.head(self.scratch([layer(level) for layer, level in zip(self.act_postprocess, maps, strict=True)]))


def make_head(config: DecoderConfig) -> nn.Module:
    """The head that `config.head` names: (layers, grid) → raw maps (batch, 4, height, width)."""
    return LinearHead(config) if config.head == "linear" else DPTHead(config)


def read_head(head: nn.Module, layers: list[Tensor], grid: tuple[int, int]) -> PointMap:
    """Layers (batch, rows * cols, width) → point maps, in float32 also under autocast; a few images at a time."""
    # The number of images is free in a graph that is exported.
    chunks = [(layer,) if torch.compiler.is_exporting() else layer.split(_IMAGES_AT_ONCE) for layer in layers]
    with no_autocast(layers[-1].device):
        parts = [point_map(head([layer.float() for layer in part], grid)) for part in zip(*chunks, strict=True)]
    return PointMap(*(torch.cat(values) for values in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]
