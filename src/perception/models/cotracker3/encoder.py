"""The convolutional encoder: one feature map at a quarter of the image size, fused from four scales. Attribute names are the checkpoint's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_MIN_SQUARED_NORM = 1e-12


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with instance norm and ReLU, and a shortcut, projected where the size changes."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.downsample = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride), nn.InstanceNorm2d(num_out)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = _normalised_relu(self.conv1(x))
        return functional.relu(shortcut + _normalised_relu(self.conv2(x)), inplace=True)


class Encoder(nn.Module):
    """images (batch, 3, height, width) in [-1, 1] → features (batch, dim, height / 4, width / 4), not normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (dim // 2, dim // 4 * 3, dim, dim)
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
        self.layer1 = _stage(widths[0], widths[0], 1)
        self.layer2 = _stage(widths[0], widths[1], 2)
        self.layer3 = _stage(widths[1], widths[2], 2)
        self.layer4 = _stage(widths[2], widths[3], 2)
        self.conv2 = nn.Conv2d(sum(widths), 2 * dim, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * dim, dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[-2] // 4, images.shape[-1] // 4)
        x = _normalised_relu(self.conv1(images))
        scales = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            is_sized = x.shape[-2:] == size
            scales.append(x if is_sized else functional.interpolate(x, size, mode="bilinear", align_corners=True))
        return self.conv3(_normalised_relu(self.conv2(torch.cat(scales, dim=1))))


def _stage(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_ResidualBlock(num_in, num_out, stride), _ResidualBlock(num_out, num_out, 1))


def _normalised_relu(x: Tensor) -> Tensor:
    return functional.relu(functional.instance_norm(x), inplace=True)


def feature_pyramid(features: Tensor, num_levels: int) -> list[Tensor]:
    """features (batch, dim, height, width) → levels (batch, height / 2^l, width / 2^l, dim), of unit length per cell in level 0, then averaged.

    Channels come last, because patches of cells are gathered from the levels.
    """
    features = features.float()
    level = features / features.square().sum(1, keepdim=True).clamp_min(_MIN_SQUARED_NORM).sqrt()
    levels = [level]
    for _ in range(num_levels - 1):
        level = functional.avg_pool2d(level, 2)
        levels.append(level)
    return [level.permute(0, 2, 3, 1).contiguous() for level in levels]
