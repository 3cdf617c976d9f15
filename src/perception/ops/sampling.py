"""Reading dense descriptor maps at pixels, and the grids of pixels that are asked for."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from perception.core.errors import InputError
from perception.core.types import Grid


def sample_map(descriptors: Tensor, points_px: Tensor | NDArray, grid: Grid, normalize: bool = True) -> Tensor:
    """Descriptors (..., n, dim) at pixels (..., n, 2), bilinear between cell centres; beyond the outermost centres the border value holds.

    descriptors (..., dim, rows, cols) of any floating dtype, kept in the result · points_px as (x, y) with the same leading dimensions ·
    normalize: give back unit length. A NaN point gives NaN. Gradients reach both descriptors and points.
    Grid(offset patch/2, stride) reproduces `interpolate_features` of MEF (You et al., ICLR 2025).
    """
    points = torch.as_tensor(points_px, device=descriptors.device)
    *batch, dim, rows, cols = descriptors.shape
    if points.shape[-1] != 2 or list(points.shape[:-2]) != batch:
        raise InputError(f"points_px {tuple(points.shape)}: must be (..., n, 2) with the leading dimensions {tuple(batch)} of the map")
    exact = torch.promote_types(descriptors.dtype, torch.float32)
    points = points.to(exact).reshape(math.prod(batch), points.shape[-2], 2)
    # Cells first, channels last: each corner is then one contiguous read.
    table = descriptors.reshape(-1, dim, rows * cols).transpose(1, 2).reshape(-1, dim).to(exact)
    index, weight = _corners(points, grid, rows, cols)
    first_cell = torch.arange(points.shape[0], device=points.device)[:, None, None] * (rows * cols)
    sampled = functional.embedding_bag((index + first_cell).reshape(-1, 4), table, per_sample_weights=weight.reshape(-1, 4), mode="sum")
    if normalize:
        sampled = functional.normalize(sampled, dim=-1)
    return sampled.reshape(*batch, points.shape[1], dim).to(descriptors.dtype)


def _corners(points: Tensor, grid: Grid, rows: int, cols: int) -> tuple[Tensor, Tensor]:
    """Flat indices (b, n, 4) of the surrounding cells and their weights (b, n, 4)."""
    col = ((points[..., 0] - grid.offset_px[0]) / grid.stride_px[0]).clamp(0, cols - 1)
    row = ((points[..., 1] - grid.offset_px[1]) / grid.stride_px[1]).clamp(0, rows - 1)
    left, top = col.detach().nan_to_num(0).floor(), row.detach().nan_to_num(0).floor()
    right_share, bottom_share = col - left, row - top
    left, top = left.long(), top.long()
    right, bottom = (left + 1).clamp(max=cols - 1), (top + 1).clamp(max=rows - 1)
    index = torch.stack([top * cols + left, top * cols + right, bottom * cols + left, bottom * cols + right], dim=-1)
    left_share, top_share = 1 - right_share, 1 - bottom_share
    weight = torch.stack([top_share * left_share, top_share * right_share, bottom_share * left_share, bottom_share * right_share], dim=-1)
    return index, weight


def stratified_grid(
    height: int, width: int, stride: int, mask: NDArray[np.bool_] | None = None, first: tuple[int, int] = (0, 0)
) -> NDArray[np.float32]:
    """Every `stride`-th pixel of an image, from `first` (x, y) on, as float32 (n, 2) in (x, y), row by row; with a `mask` (height, width) only
    where true."""
    if stride < 1:
        raise InputError(f"stride = {stride}: must be at least 1 px")
    rows, cols = np.meshgrid(np.arange(first[1], height, stride), np.arange(first[0], width, stride), indexing="ij")
    if mask is not None:
        if mask.shape != (height, width):
            raise InputError(f"mask has shape {mask.shape}: must be {(height, width)} like the image")
        inside = mask[rows, cols]
        rows, cols = rows[inside], cols[inside]
    return np.stack([cols.ravel(), rows.ravel()], axis=-1).astype(np.float32)


def first_pixel(grid: Grid, stride: int) -> tuple[int, int]:
    """Where a stratified grid of `stride` has to start so that its pixels fall on cell centres (to half a pixel) of a map whose cells are a
    multiple or a divisor of the stride apart: a descriptor on a centre is not blurred by interpolation."""
    return int(grid.offset_px[0]) % stride, int(grid.offset_px[1]) % stride


def letterbox_keypoints(keypoints: NDArray, width: int, height: int, size: int) -> tuple[NDArray, tuple[int, int], float]:
    """Keypoints (n, 3) as (x, y, visible) of an image, moved to the square image of `size` px into which it is scaled and centred.

    Returns the keypoints, all zero where not visible, the offset (x, y) in px and the scale. As in MEF's evaluation on PF-PASCAL.
    """
    scale = size / max(width, height)
    offset = ((size - round(width * scale)) // 2, (size - round(height * scale)) // 2)
    moved = keypoints.copy()
    moved[:, :2] = keypoints[:, :2] * scale + np.asarray(offset, keypoints.dtype)
    return moved * (keypoints[:, 2:] > 0), offset, scale
