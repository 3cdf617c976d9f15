"""Fixed sines and cosines of positions, as channels of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

_PERIOD_BASE = 10000.0


def sines_and_cosines(positions: Tensor, dim: int) -> Tensor:
    """positions (…) → (…, dim) float64: dim / 2 sines, then the cosines, at frequencies that fall from 1 to 1/10000 (Vaswani et al., 2017)."""
    assert dim % 2 == 0, dim
    frequencies = _PERIOD_BASE ** -(torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim / 2))
    angles = positions.double()[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_encoding(rows: int, cols: int, dim: int, step: float = 1.0) -> Tensor:
    """(rows * cols, dim) float32, row by row: half of the channels encode the column, the other half the row, both multiples of `step`."""
    assert dim % 4 == 0, dim
    row, col = torch.meshgrid(torch.arange(rows) * step, torch.arange(cols) * step, indexing="ij")
    return torch.cat([sines_and_cosines(axis.flatten(), dim // 2) for axis in (col, row)], dim=-1).float()


def line_encoding(length: int, dim: int, step: float = 1.0) -> Tensor:
    """(length, dim) float32 of the positions 0, step, 2 step, …"""
    return sines_and_cosines(torch.arange(length) * step, dim).float()
