"""The scale that brings numbers or points onto others with the least sum of absolute differences, exactly: a weighted median. torch.

Known from MoGe (Wang et al., CVPR 2025) as the "robust, optimal, efficient" (ROE) alignment, by which Pi3 makes its losses free of scale.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perception.core.errors import InputError


class RobustScale(NamedTuple):
    """scale (...): differentiable, as target over source at the `entry` (...). cost (...): least sum, without gradient.

    Where no entry has a weight and a source other than 0, any scale is as good: NaN, with entry 0.
    """

    scale: Float[Tensor, ...]
    cost: Float[Tensor, ...]
    entry: Int[Tensor, ...]


def robust_scale(
    source: Float[Tensor, "... n"], target: Float[Tensor, "... n"], weight: Float[Tensor, "... n"], truncation: float | None = None
) -> RobustScale:
    """Scale a that minimises the sum over n of weight |a source - target|, or of min(truncation, weight |a source - target|). It may be negative.

    weight: not negative; all three broadcast. One sort, without a truncation; of several equally good scales the smallest. With one, all n candidates
    are compared by prefix sums: O(n log n) as well, and the global minimum. Sums are taken in float64. Raises InputError for n = 0 or a truncation
    that is not positive.
    """
    if truncation is not None and not truncation > 0:
        raise InputError(f"robust scale: truncation = {truncation}; must be positive")
    source, target, weight = torch.broadcast_tensors(source, target, weight)
    if source.shape[-1] == 0:
        raise InputError("robust scale: no numbers to align; must be (..., n) with n >= 1")
    with torch.no_grad():
        exact_source, exact_target, exact_weight = source.double(), target.double(), weight.double()
        share = exact_weight * exact_source.abs()
        ratio = torch.where(share > 0, exact_target / exact_source, torch.inf)
        candidates, order = ratio.sort(dim=-1, stable=True)
        shares = share.gather(-1, order)
        best = _weighted_median(shares) if truncation is None else _truncated_minimum(candidates, shares, truncation)
        index = order.gather(-1, best[..., None])
    at_source, at_target = source.gather(-1, index), target.gather(-1, index)
    known = share.gather(-1, index) > 0
    scale = torch.where(known, at_target / torch.where(known, at_source, 1.0), torch.nan)
    with torch.no_grad():
        differences = exact_weight * (scale.double() * exact_source - exact_target).abs()
        cost = (differences if truncation is None else differences.clamp(max=truncation)).sum(-1)
    return RobustScale(scale[..., 0], cost.to(scale.dtype), index[..., 0])


def robust_scale_of_points(
    source: Float[Tensor, "... n 3"], target: Float[Tensor, "... n 3"], weight: Float[Tensor, "... n"], truncation: float | None = None
) -> RobustScale:
    """`robust_scale` of the coordinates of points: all 3 n are numbers of their own with their point's weight, and so counts `entry`."""
    return robust_scale(source.flatten(-2), target.flatten(-2), weight[..., None].expand_as(source).flatten(-2), truncation)


def _weighted_median(shares: Tensor) -> Tensor:
    """Place (...) of the first entry up to which the shares (..., n) of sorted candidates sum to half of all."""
    so_far = shares.cumsum(-1)
    return (2 * so_far < so_far[..., -1:]).sum(-1).clamp(max=shares.shape[-1] - 1)


def _truncated_minimum(candidates: Tensor, shares: Tensor, truncation: float) -> Tensor:
    """Place (...) of the best of the sorted candidates (..., n), which are all the points where the truncated sum can have a minimum.

    Each term, less the truncation, is a notch: 0 up to ratio - reach, down with the slope -share to the ratio, up again to 0 at ratio + reach. It is
    a sum of three ramps, and the sum of many ramps at a point comes from prefix sums of their slopes and offsets in the order of their starts.
    """
    counted = shares > 0
    at = torch.where(counted, candidates, 0.0)
    reach = truncation / torch.where(counted, shares, 1.0)
    total = torch.zeros_like(at)
    for start, slope in ((at - reach, -shares), (at, 2 * shares), (at + reach, -shares)):
        starts, order = start.sort(dim=-1)
        slopes = slope.gather(-1, order)
        slope_sums, offset_sums = _prefix_sums(slopes), _prefix_sums(slopes * starts)
        begun = torch.searchsorted(starts, at, right=True)
        total = total + at * slope_sums.gather(-1, begun) - offset_sums.gather(-1, begun)
    return torch.where(counted, total, torch.inf).argmin(-1)


def _prefix_sums(values: Tensor) -> Tensor:
    """Sums (..., n + 1) of the first 0, 1, ..., n values."""
    return torch.nn.functional.pad(values.cumsum(-1), (1, 0))
