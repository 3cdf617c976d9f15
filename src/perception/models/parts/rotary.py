"""Rotary position encoding of two image axes: half of every attention head turns with y, the other half with x.

Su et al., "RoFormer", 2021; for images as in CroCo v2 (Weinzaepfel et al., ICCV 2023), whose layout DUSt3R, Pi3 and TrajVG share: within each half,
component i is paired with component i + head_dim / 4, and pair i turns by position * base^(-4 i / head_dim).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """cos and sin, each (…, tokens, head_dim) float32; sin has the signs of the rotation. Computed once per forward, used by every block."""

    cos: Tensor
    sin: Tensor


def grid_positions(rows: int, cols: int, offset: int = 0, device: torch.device | str | None = None) -> Tensor:
    """(rows * cols, 2) integer positions (row, column) of the tokens of an image, row by row, each plus `offset`."""
    y, x = torch.arange(rows, device=device), torch.arange(cols, device=device)
    return torch.cartesian_prod(y, x).view(-1, 2) + offset


def rotary_table(positions: Tensor, head_dim: int, base: float = 100.0) -> Rotary:
    """positions (…, tokens, 2) as (y, x) → tables (…, tokens, head_dim); head_dim is a multiple of 4."""
    assert head_dim % 4 == 0, head_dim
    half = head_dim // 2
    frequencies = base ** -(torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half)
    angles = positions.float()[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return Rotary(torch.cat([cos, cos], -1).flatten(-2), torch.cat([-sin, sin], -1).flatten(-2))


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """x (batch, heads, tokens, head_dim), rotary (tokens, head_dim) or (batch or 1, tokens, head_dim) → x turned, in its own dtype."""
    cos, sin = (table.to(x.dtype).unsqueeze(-3) for table in rotary)
    partner = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return torch.addcmul(x * cos, partner, sin)
