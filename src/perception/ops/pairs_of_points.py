"""Descriptors of points in two views: the form that all correspondence losses take, and what they give back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from perception.core.errors import InputError


class PairLoss(NamedTuple):
    """loss: scalar, 0 with zero gradient where nothing is positive · num_anchors: scalar int64, of what the loss is the mean."""

    loss: Tensor
    num_anchors: Tensor


def check_pair(place: str, query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor) -> None:
    """Raise InputError that begins with `place` unless descriptors are (batch, n, dim) and their points (batch, n, 3)."""
    for name, descriptors, points in (("query", query, query_points), ("item", item, item_points)):
        if descriptors.ndim != 3 or points.shape != (*descriptors.shape[:2], 3):
            raise InputError(
                f"{place}: {name} descriptors {tuple(descriptors.shape)}, points {tuple(points.shape)}: must be (batch, n, dim), (batch, n, 3)"
            )
    if query.shape[::2] != item.shape[::2]:
        raise InputError(f"{place}: queries {tuple(query.shape)}, items {tuple(item.shape)}: batch and length of descriptors must be equal")


def check_thresholds(place: str, positive_below: float, negative_above: float) -> None:
    """Raise InputError unless 0 < positive_below <= negative_above."""
    if not 0 < positive_below <= negative_above:
        raise InputError(
            f"{place}: positive_below = {positive_below}, negative_above = {negative_above}: must be 0 < positive_below <= negative_above"
        )
