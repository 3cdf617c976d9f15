"""Square, periodic textures of one size with their mip levels, packed so that one lookup reads any texture at any level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.core.errors import InputError


@dataclass(frozen=True, eq=False)
class TextureStack:
    """K textures of `resolution` x `resolution` texels that repeat in both directions.

    texels (3, K * texels_per_texture) float32 linear reflectance in [0, 1]: for each texture its levels from fine to coarse, rows then columns.
    """

    texels: Tensor
    resolution: int

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.resolution & (self.resolution - 1):
            raise InputError(f"texture resolution is {self.resolution}: must be a power of two")
        if self.texels.ndim != 2 or self.texels.shape[0] != 3 or self.texels.shape[1] % self.texels_per_texture:
            raise InputError(f"texels have shape {tuple(self.texels.shape)}: must be (3, a multiple of {self.texels_per_texture})")

    @classmethod
    def from_images(cls, images: Tensor, srgb: bool = True) -> TextureStack:
        """images (K, 3, S, S) float in [0, 1], S a power of two; `srgb`: they are display values and become linear here."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise InputError(f"texture images have shape {tuple(images.shape)}: must be (textures, 3, size, size)")
        resolution = images.shape[-1]
        level = images.to(torch.float32)
        level = level.clamp(0, 1) ** 2.2 if srgb else level
        levels = [level.flatten(2)]
        while level.shape[-1] > 1:
            level = torch.nn.functional.avg_pool2d(level, 2)
            levels.append(level.flatten(2))
        return cls(torch.cat(levels, 2).permute(1, 0, 2).reshape(3, -1).contiguous(), resolution)

    @property
    def texels_per_texture(self) -> int:
        """Texels of all levels of one texture."""
        return (4 * self.resolution**2 - 1) // 3

    @property
    def num_textures(self) -> int:
        return self.texels.shape[1] // self.texels_per_texture

    @property
    def num_levels(self) -> int:
        return self.resolution.bit_length()

    def lookup(self, texture: Tensor, u: Tensor, v: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Red, green and blue, linear between texels and between levels. texture: index · u, v: place in repeats · level: 0 is the finest."""
        level = level.clamp(0, self.num_levels - 1)
        finer = level.floor()
        share = level.sub_(finer)
        first, second = self._at_level(texture, u, v, finer), self._at_level(texture, u, v, (finer + 1).clamp_(max=self.num_levels - 1))
        red, green, blue = (torch.lerp(one, other, share) for one, other in zip(first, second, strict=True))
        return red, green, blue

    def _at_level(self, texture: Tensor, u: Tensor, v: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        """Bilinear at whole levels; texel centres lie at half texels, so that levels lie over each other."""
        size = torch.exp2(self.num_levels - 1 - level)
        column, row = (u - u.floor()).mul_(size).sub_(0.5), (v - v.floor()).mul_(size).sub_(0.5)
        left, top = column.floor(), row.floor()
        right_share, down_share = column.sub_(left), row.sub_(top)
        # The levels before hold 4/3 (S^2 - size^2) texels, which float32 holds exactly up to S = 2048.
        before = (self.resolution**2 - size * size).mul_(4 / 3).round_().int().add_(texture, alpha=self.texels_per_texture)
        across = size.int()
        last = across - 1
        left, top = left.int(), top.int()
        upper, lower = (top & last).mul_(across).add_(before), ((top + 1) & last).mul_(across).add_(before)
        left, right = left & last, (left + 1) & last
        places = [place.flatten() for place in (upper + left, upper + right, lower + left, lower + right)]
        colour = []
        for channel in self.texels:
            first, second, third, fourth = (channel.index_select(0, place).view(u.shape) for place in places)
            colour.append(torch.lerp(first, second, right_share).lerp_(third.lerp_(fourth, right_share), down_share))
        return tuple(colour)

    def to(self, device: torch.device | str) -> TextureStack:
        return TextureStack(self.texels.to(device, non_blocking=True), self.resolution)
