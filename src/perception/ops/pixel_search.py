"""The pixel of an image whose interpolated descriptor is most like a given one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from perception.core.errors import InputError
from perception.core.types import Grid

_MAX_SCORES = 1 << 22


def nearest_pixels(queries: Tensor, descriptors: Tensor, grid: Grid, width: int, height: int) -> Tensor:
    """Pixels (n, 2) int64 as (x, y) of an image of width x height whose descriptor has the largest inner product with each of the queries (n, dim).

    descriptors (dim, rows, cols), bilinear between cell centres, constant beyond the outermost ones, not normalised after interpolation (unit cells
    make a cosine of the cells). Equal pixels: the first one, row by row. The same as a search over every pixel of the upsampled map, without making
    it: the inner product is bilinear between four centres, so that it is largest at one of the pixels next to a centre. Memory does not grow with n.
    """
    if queries.ndim != 2 or descriptors.ndim != 3 or queries.shape[1] != descriptors.shape[0]:
        raise InputError(f"queries {tuple(queries.shape)} and map {tuple(descriptors.shape)}: must be (n, dim) and (dim, rows, cols) of equal dim")
    dim, rows, cols = descriptors.shape
    exact = torch.promote_types(descriptors.dtype, torch.float32)
    cells = descriptors.reshape(dim, rows * cols).to(exact)
    y, top, bottom, bottom_share = _candidates(rows, grid.offset_px[1], grid.stride_px[1], height, cells)
    x, left, right, right_share = _candidates(cols, grid.offset_px[0], grid.stride_px[0], width, cells)
    block = max(1, _MAX_SCORES // (len(x) * len(y)))
    found = []
    for start in range(0, len(queries), block):
        score = (queries[start : start + block].to(exact) @ cells).reshape(-1, rows, cols)
        score = score[:, top] * (1 - bottom_share[:, None]) + score[:, bottom] * bottom_share[:, None]
        score = score[:, :, left] * (1 - right_share) + score[:, :, right] * right_share
        best = score.flatten(1).argmax(dim=1)
        found.append(torch.stack([x[best % len(x)], y[best // len(x)]], dim=-1))
    return torch.cat(found) if found else torch.zeros((0, 2), dtype=torch.int64, device=descriptors.device)


def _candidates(num_cells: int, offset: float, stride: float, size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis: pixels next to cell centres and at the image's ends, ascending; the cells before and behind each; the share of the latter."""
    centres = offset + stride * np.arange(num_cells)
    pixels = np.unique(np.clip(np.concatenate([np.floor(centres), np.ceil(centres), [0, size - 1]]), 0, size - 1))
    place = np.clip((pixels - offset) / stride, 0, num_cells - 1)
    before = np.floor(place).astype(np.int64)
    share = torch.as_tensor(place - before, dtype=like.dtype, device=like.device)
    cells = [torch.as_tensor(index, device=like.device) for index in (before, np.minimum(before + 1, num_cells - 1))]
    return torch.as_tensor(pixels.astype(np.int64), device=like.device), cells[0], cells[1], share
