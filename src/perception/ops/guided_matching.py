"""Matching where the answer is roughly known: each target descriptor is looked for in a window of a dense map."""

from __future__ import annotations

import torch

from perception.core.types import Grid

_TARGETS_AT_ONCE = 512


def match_near(
    descriptors: torch.Tensor, grid: Grid, expected_px: torch.Tensor, targets: torch.Tensor, radius_px: float, allowed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The most similar cell within `radius_px` (but at least one cell each way) of where each target is expected.

    descriptors (dim, rows, cols) and targets (num, dim), L2-normalised · expected_px (num, 2) as (x, y) · allowed (rows, cols) bool, cells that may
    be chosen (None: all). Returns the flat index of the cell (num,) and its similarity (num,), -1 where the window holds no allowed cell.
    """
    _, num_rows, num_cols = descriptors.shape
    flat = descriptors.flatten(1).T.float().contiguous()
    stride = torch.tensor(grid.stride_px)
    center = ((expected_px.float() - torch.tensor(grid.offset_px)) / stride).round().long()
    reach = [max(1, int(radius_px // side)) for side in grid.stride_px]
    rows, cols = torch.meshgrid(torch.arange(-reach[1], reach[1] + 1), torch.arange(-reach[0], reach[0] + 1), indexing="ij")
    inside_disc = ((torch.stack([cols, rows], -1) * stride).norm(dim=-1) <= max(radius_px, float(stride.norm()))).flatten()
    offsets = torch.stack([cols, rows], -1).view(-1, 2)[inside_disc]
    index = torch.zeros(len(targets), dtype=torch.int64)
    score = torch.full((len(targets),), -1.0)
    for first in range(0, len(targets), _TARGETS_AT_ONCE):
        part = slice(first, first + _TARGETS_AT_ONCE)
        cell = center[part, None] + offsets
        valid = (cell >= 0).all(-1) & (cell[..., 0] < num_cols) & (cell[..., 1] < num_rows)
        position = cell[..., 1].clamp(0, num_rows - 1) * num_cols + cell[..., 0].clamp(0, num_cols - 1)
        if allowed is not None:
            valid &= allowed.flatten()[position]
        similarity = torch.bmm(flat[position], targets[part].float()[..., None])[..., 0].masked_fill(~valid, -1.0)
        score[part], best = similarity.max(dim=1)
        index[part] = position.gather(1, best[:, None])[:, 0]
    return index, score


def cell_positions(grid: Grid, index: torch.Tensor, num_cols: int) -> torch.Tensor:
    """Pixels (num, 2) float32 as (x, y) of the cells with flat numbers `index` (num,)."""
    cells = torch.stack([index % num_cols, index.div(num_cols, rounding_mode="floor")], 1)
    return torch.tensor(grid.offset_px) + torch.tensor(grid.stride_px) * cells


def beats_the_rest(
    scores: torch.Tensor, points_px: torch.Tensor, targets: torch.Tensor, others: torch.Tensor, others_px: torch.Tensor, exclusion_px: float
) -> torch.Tensor:
    """Whether the similarity that each target found at its point (num,) is matched by nothing farther than `exclusion_px` from there.

    A window always has a best cell; only one that also beats the rest of the image says something. targets (num, dim) · others (m, dim)
    descriptors at others_px (m, 2).
    """
    kept = torch.zeros(len(targets), dtype=torch.bool)
    others, others_px = others.float(), others_px.float()
    # |a - b|^2 = |a|^2 - 2 a.b + |b|^2 as one product, which is several times as fast as torch.cdist for points in a plane.
    lifted = torch.cat([-2 * others_px, torch.ones(len(others_px), 1), others_px.square().sum(1, keepdim=True)], dim=1)
    for first in range(0, len(targets), _TARGETS_AT_ONCE):
        part = slice(first, first + _TARGETS_AT_ONCE)
        similarity = targets[part].float() @ others.T
        points = points_px[part].float()
        squared = torch.cat([points, points.square().sum(1, keepdim=True), torch.ones(len(points), 1)], dim=1) @ lifted.T
        similarity.masked_fill_(squared <= exclusion_px**2, -1.0)
        kept[part] = similarity.amax(dim=1) < scores[part]
    return kept
