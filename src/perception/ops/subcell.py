"""Positions finer than the cells of a dense map, from the similarities around the best cell."""

from __future__ import annotations

import torch

from perception.core.types import Grid


def refine_to_subcell(descriptors: torch.Tensor, grid: Grid, points_px: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Move points of a dense map to where the similarity to their target descriptor peaks.

    A parabola is put through the similarities of the nearest cell and its neighbours, for x and y apart; a point moves by at most half a
    cell from that cell's centre. Points whose cell is no local maximum, or lies on the border of the map, stay where they are.

    descriptors (dim, rows, cols) and targets (num, dim), both L2-normalised · points_px (num, 2) as (x, y) · returns (num, 2) float32 px.
    """
    _, num_rows, num_cols = descriptors.shape
    offset = torch.tensor(grid.offset_px)
    stride = torch.tensor(grid.stride_px)
    cells = ((points_px - offset) / stride).round().long()
    inside = (cells[:, 0] > 0) & (cells[:, 0] < num_cols - 1) & (cells[:, 1] > 0) & (cells[:, 1] < num_rows - 1)
    col, row = cells[:, 0].clamp(1, max(num_cols - 2, 1)), cells[:, 1].clamp(1, max(num_rows - 2, 1))
    if num_rows < 3 or num_cols < 3:
        return points_px.float()

    flat = descriptors.flatten(1).T
    targets = targets.to(flat.dtype)

    def similarity(row: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        return (flat[row * num_cols + col] * targets).sum(1).float()

    center = similarity(row, col)
    shift_x, peak_x = _parabola_peak(similarity(row, col - 1), center, similarity(row, col + 1))
    shift_y, peak_y = _parabola_peak(similarity(row - 1, col), center, similarity(row + 1, col))
    refined = offset + stride * (torch.stack([col, row], 1) + torch.stack([shift_x, shift_y], 1))
    return torch.where((inside & peak_x & peak_y)[:, None], refined, points_px).float()


def _parabola_peak(before: torch.Tensor, center: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the parabola through three samples at -1, 0, 1 peaks, and whether the middle one is the largest."""
    curvature = 2 * center - before - after
    is_peak = (center >= before) & (center >= after) & (curvature > 0)
    shift = 0.5 * (after - before) / torch.where(is_peak, curvature, torch.ones_like(curvature))
    return torch.where(is_peak, shift.clamp(-0.5, 0.5), torch.zeros_like(shift)), is_peak
