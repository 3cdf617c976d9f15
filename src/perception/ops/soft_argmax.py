"""Where a map of similarities peaks, to less than a cell: the expectation over a disc round the highest cell."""

from __future__ import annotations

import torch

from perception.core.types import Grid


def cell_centres(rows: int, cols: int, grid: Grid, like: torch.Tensor) -> torch.Tensor:
    """Pixel coordinates (x, y) of all cells in row-major order, (rows * cols, 2), with dtype and device of `like`."""
    x = grid.offset_px[0] + grid.stride_px[0] * torch.arange(cols, device=like.device, dtype=like.dtype)
    y = grid.offset_px[1] + grid.stride_px[1] * torch.arange(rows, device=like.device, dtype=like.dtype)
    return torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), -1).reshape(-1, 2)


def soft_argmax(similarity: torch.Tensor, grid: Grid, radius_px: float, temperature: float = 1.0) -> torch.Tensor:
    """similarity (..., rows, cols) → points (..., 2) as (x, y) in pixels.

    Softmax of similarity / temperature over the whole map, cut to the cells within radius_px of the highest one, renormalised;
    the point is the expectation of the cell centres. That equals the softmax over the disc alone, which is what is computed.
    Source: the tracking head of DINO-Tracker (Tumanyan et al., ECCV 2024) as 3DCorrEnhance uses it, without its learnt layers.
    """
    rows, cols = similarity.shape[-2:]
    flat = similarity.flatten(-2)
    centres = cell_centres(rows, cols, grid, flat)
    peak = centres[flat.argmax(-1)]
    outside = (centres - peak[..., None, :]).square().sum(-1) > radius_px**2
    weights = torch.softmax((flat / temperature).masked_fill(outside, -torch.inf), -1)
    return weights @ centres
