"""Normals of predicted point maps against those of true ones, as in MoGe (Wang et al., CVPR 2025) and Pi3."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perception.geometry.depth_edges import RELATIVE_STEP, depth_edges

_SMALLEST_RAD, _LARGEST_RAD, _QUADRATIC_BELOW_RAD = math.radians(1), math.radians(90), math.radians(3)


def surface_normal_loss(
    points: Float[Tensor, "*batch height width 3"],
    true_points: Float[Tensor, "*batch height width 3"],
    valid: Bool[Tensor, "*batch height width"],
) -> Float[Tensor, ""]:
    """Smooth L1 of the angle, in radians, between the normals of both maps at the four corners of each cell of 2x2 pixels, over the longer side.

    Averaged over all cells, over 4 max(height, width). Angles count from 1 to 90 degrees, quadratically below 3: outside, the gradient is 0. Corners
    with a pixel that is not valid or lies on an edge of the true depth add 0. Maps in camera axes; 0 where there is no cell.
    """
    height, width = valid.shape[-2:]
    if height < 2 or width < 2 or valid.numel() == 0:
        return points.sum() * 0
    used = valid & ~depth_edges(true_points[..., 2], relative_step=RELATIVE_STEP)
    total = torch.zeros_like(points[..., 1:, 1:, 0])
    for normal, true_normal, counted in zip(_corner_normals(points), _corner_normals(true_points), _corners_known(used), strict=True):
        sine = torch.linalg.vector_norm(torch.linalg.cross(normal, true_normal), dim=-1)
        # The smallest number keeps the angle of two zero vectors from being 0 over 0.
        angle = torch.atan2(sine + 1e-12, (normal * true_normal).sum(-1)).clamp(_SMALLEST_RAD, _LARGEST_RAD)
        beta = _QUADRATIC_BELOW_RAD
        smooth = torch.where(angle < beta, 0.5 * angle**2 / beta, angle - 0.5 * beta)
        total = total + torch.where(counted, smooth, 0.0)
    return total.mean() / (4 * max(height, width))


def _cell(values: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each 2x2 cell the values at its corners, going round: top left, bottom left, bottom right, top right. axis: that of the rows."""
    height, width = values.shape[axis], values.shape[axis + 1]
    top, bottom = values.narrow(axis, 0, height - 1), values.narrow(axis, 1, height - 1)
    left, right = (axis + 1, 0, width - 1), (axis + 1, 1, width - 1)
    return top.narrow(*left), bottom.narrow(*left), bottom.narrow(*right), top.narrow(*right)


def _corner_normals(points: Tensor) -> list[Tensor]:
    """At each corner of each cell the cross product of the edge to the corner before it and the one to the corner after it."""
    cell = _cell(points, -3)
    return [torch.linalg.cross(cell[k - 1] - cell[k], cell[(k + 1) % 4] - cell[k]) for k in range(4)]


def _corners_known(used: Tensor) -> list[Tensor]:
    cell = _cell(used, -2)
    return [cell[k - 1] & cell[k] & cell[(k + 1) % 4] for k in range(4)]
