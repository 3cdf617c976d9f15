"""Contrastive losses: with fixed margins, as the MEF paper compares SmoothAP with, and InfoNCE with an excluded neighbourhood."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from perception.core.errors import InputError
from perception.ops.pairs_of_points import PairLoss, check_pair, check_thresholds

_SMALLEST_SQUARE = 1e-12
"""Of a distance, below which its root has no useful gradient."""


def margin_contrastive_loss(
    query: Float[Tensor, "batch query dim"],
    item: Float[Tensor, "batch item dim"],
    query_points: Float[Tensor, "batch query 3"],
    item_points: Float[Tensor, "batch item 3"],
    *,
    positive_below: float = 5e-3,
    negative_above: float = 0.1,
    positive_margin: float = 0.1,
    negative_margin: float = 1.4,
) -> PairLoss:
    """Mean over positive pairs of max(0, d - positive_margin)^2 plus mean over negative pairs of max(0, negative_margin - d)^2.

    d: distance of unit descriptors, in [0, 2] · positives and negatives by distance in 3D as in `smooth_ap_loss`, negatives only of queries that have
    a positive; NaN points take no part. The form is that of Hadsell et al. (CVPR 2006) with a margin for positives, too, as in FCGF (Choy et al.,
    ICCV 2019), whose margins are the defaults. MEF names no margins for its comparison, and its code of it is not public.
    """
    check_pair("contrastive loss", query, item, query_points, item_points)
    check_thresholds("contrastive loss", positive_below, negative_above)
    if not 0 <= positive_margin < negative_margin:
        raise InputError(
            f"contrastive loss: positive_margin = {positive_margin}, negative_margin = {negative_margin}: "
            "must be 0 <= positive_margin < negative_margin"
        )
    exact = torch.promote_types(torch.promote_types(query.dtype, item.dtype), torch.float32)
    zero = (query.sum() + item.sum()).to(exact) * 0
    with torch.autocast(query.device.type, enabled=False):
        far_apart, too_near = [zero.reshape(1)[:0]], [zero.reshape(1)[:0]]
        for number in range(len(query)):
            distance_3d = torch.cdist(query_points[number], item_points[number])
            is_positive = distance_3d < positive_below
            used = is_positive.any(1)
            distance = _distances(query[number][used].to(exact), item[number].to(exact))
            far_apart.append(functional.relu(distance[is_positive[used]] - positive_margin) ** 2)
            too_near.append(functional.relu(negative_margin - distance[distance_3d[used] > negative_above]) ** 2)
        positive, negative = torch.cat(far_apart), torch.cat(too_near)
        loss = zero + positive.sum() / max(1, len(positive)) + negative.sum() / max(1, len(negative))
    return PairLoss(loss, torch.tensor(len(positive), device=query.device))


def _distances(query: Tensor, item: Tensor) -> Tensor:
    """(n, m) between unit vectors."""
    return (2 - 2 * query @ item.T).clamp(min=_SMALLEST_SQUARE).sqrt()


class InfoNce(NamedTuple):
    """loss: scalar, 0 with zero gradient without queries · share_first: scalar in [0, 1], queries whose counterpart scores highest, NaN without."""

    loss: Float[Tensor, ""]
    share_first: Float[Tensor, ""]


def info_nce_loss(
    query: Float[Tensor, "query dim"],
    counterpart: Float[Tensor, "query dim"],
    item: Float[Tensor, "item dim"],
    counterpart_place: Float[Tensor, "query space"],
    item_place: Float[Tensor, "item space"],
    *,
    excluded_radius: float,
    temperature: float = 0.05,
    item_groups: tuple[Int[Tensor, " query"], Int[Tensor, " item"]] | None = None,
) -> InfoNce:
    """Cross-entropy of finding each query's counterpart (its true match in the other view) among that and all items that are not near it.

    Descriptors of unit length · places: where counterparts and items lie, in pixels or in 3D; items within `excluded_radius` of the counterpart (at
    most) are neither right nor wrong and left out · item_groups: image of each query's counterpart and of each item, when items come from several
    images, so that places are compared within an image only. InfoNCE: van den Oord et al., 2018.
    """
    if query.shape != counterpart.shape or query.ndim != 2 or query.shape[1:] != item.shape[1:]:
        raise InputError(
            f"InfoNCE: queries {tuple(query.shape)}, counterparts {tuple(counterpart.shape)}, items {tuple(item.shape)}: must be (n, dim)"
        )
    if len(counterpart_place) != len(query) or len(item_place) != len(item) or not temperature > 0:
        raise InputError(
            f"InfoNCE: {len(counterpart_place)} places of {len(query)} counterparts, {len(item_place)} of {len(item)} items, "
            f"temperature {temperature}: there must be a place for each, and temperature > 0"
        )
    exact = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        query, counterpart, item = query.to(exact), counterpart.to(exact), item.to(exact)
        right = (query * counterpart).sum(1, keepdim=True) / temperature
        others = query @ item.T / temperature
        left_out = torch.cdist(counterpart_place.float(), item_place.float()) <= excluded_radius
        if item_groups is not None:
            left_out &= item_groups[0][:, None] == item_groups[1]
        scores = torch.cat([right, others.masked_fill(left_out, -torch.inf)], dim=1)
        loss = (scores.logsumexp(1) - right[:, 0]).sum() / max(1, len(query))
        share_first = (right[:, 0] > scores[:, 1:].detach().amax(1)).float().mean() if len(item) else torch.ones((), device=query.device)
    return InfoNce(loss, share_first.detach())
