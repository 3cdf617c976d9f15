"""4D correlation: the patch of features around a query against the patch around the current estimate, for each point, frame and level.

Patches are gathered at whole cells and correlated before they are interpolated: interpolation is linear, so it commutes with the dot product, and
acts on (2 r + 1)² numbers a cell instead of on all channels. Cells outside the map repeat its border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""Memory for the gathered patches of one chunk of points, by device: what stays near the cache, and what fills a GPU."""


def query_patches(level: Tensor, frames: Tensor, points: Tensor, radius: int) -> Tensor:
    """level (batch, time, height, width, dim), frames (batch, points) integer, points (batch, points, 2) in cells → (batch, points, P², dim).

    P = 2 radius + 1; the first of the two patch axes goes along x, as the checkpoint has it.
    """
    cells, weights = _cells_and_weights(level, frames, points, radius)
    side = 2 * radius + 2
    block = _rows(level)[cells].unflatten(2, (side, side))
    return _interpolate(block, weights).flatten(2, 3)


def correlate(
    levels: Sequence[Tensor],
    queries: Sequence[Tensor],
    points: Tensor,
    radius: int,
    read: Callable[[Tensor], Tensor],
    chunk_bytes: int | None = None,
) -> Tensor:
    """What `read` makes of the correlations: (batch, points, time, levels * dim of `read`).

    levels: (batch, time, height_l, width_l, dim) each · queries: (batch, points, P², dim) each, from `query_patches` ·
    points (batch, points, time, 2) in cells of level 0 · read: (…, P⁴) correlations → (…, dim), the patch around the estimate varying slowest.
    Points are handled in chunks, so that neither patches nor correlations of all points are in memory at once.
    """
    num_batch, num_points, num_frames, _ = points.shape
    dim = levels[0].shape[-1]
    chunk_bytes = chunk_bytes or CHUNK_BYTES.get(points.device.type, CHUNK_BYTES["cuda"])
    chunk = max(1, chunk_bytes // (num_batch * num_frames * (2 * radius + 2) ** 2 * dim * levels[0].element_size()))
    frames = torch.arange(num_frames, device=points.device).expand(num_batch, chunk, -1)
    parts = []
    for start in range(0, num_points, chunk):
        here = points[:, start : start + chunk]
        chosen = frames[:, : here.shape[1]].flatten(1)
        values = [
            read(_correlations(level, query[:, start : start + chunk], here / 2**index, chosen, radius))
            for index, (level, query) in enumerate(zip(levels, queries, strict=True))
        ]
        parts.append(torch.cat(values, dim=-1))
    return torch.cat(parts, dim=1)


def _correlations(level: Tensor, query: Tensor, points: Tensor, frames: Tensor, radius: int) -> Tensor:
    """level (batch, time, height, width, dim), query (batch, points, P², dim), points (batch, points, time, 2) → (batch, points, time, P⁴)."""
    num_batch, num_points, num_frames, _ = points.shape
    side = 2 * radius + 2
    cells, weights = _cells_and_weights(level, frames, points.flatten(1, 2), radius)
    block = _rows(level)[cells].view(num_batch * num_points, num_frames * side * side, -1)
    products = block @ query.flatten(0, 1).transpose(1, 2)
    products = products.view(num_batch, num_points * num_frames, side, side, -1)
    return _interpolate(products, weights).reshape(num_batch, num_points, num_frames, -1)


def _rows(level: Tensor) -> Tensor:
    return level.reshape(-1, level.shape[-1])


def _cells_and_weights(level: Tensor, frames: Tensor, points: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Row numbers (batch, points, (P + 1)²) of the cells around each point, x varying slowest, and where it lies between them (batch, points, 2)."""
    num_batch, num_frames, height, width, _ = level.shape
    corner = points.floor()
    offsets = torch.arange(-radius, radius + 2, device=points.device)
    whole = corner.long()
    x = (whole[..., 0:1] + offsets).clamp(0, width - 1)
    y = (whole[..., 1:2] + offsets).clamp(0, height - 1)
    image = frames + num_frames * torch.arange(num_batch, device=points.device)[:, None]
    cells = (image[..., None, None] * height + y[..., None, :]) * width + x[..., :, None]
    return cells.flatten(2), points - corner


def _interpolate(block: Tensor, weights: Tensor) -> Tensor:
    """block (batch, points, P + 1 along x, P + 1 along y, n), weights (batch, points, 2) → (batch, points, P, P, n)."""
    x, y = (weights[..., axis, None, None, None].to(block.dtype) for axis in range(2))
    block = torch.lerp(block[:, :, :-1], block[:, :, 1:], x)
    return torch.lerp(block[..., :-1, :], block[..., 1:, :], y)
