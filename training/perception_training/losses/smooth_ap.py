"""SmoothAP over 3D correspondences: average precision with the step function relaxed to a sigmoid, in memory that grows with points x block.

The plain form holds several matrices of (positive pairs x points) until backward. Here the loss and its gradient by the descriptors are computed
together, block by block, so that nothing but that gradient is kept.

Two forms, with G(x) = sigmoid(x / temperature), s similarities of the positives P of a query, n those of its negatives N:
- "brown": of every query, mean over i in P of (1 + sum over j in P but i of G(s_j - s_i)) / (that + sum over N of G(n - s_i)); then 1 - mean over
  the queries that have a positive (Brown et al., "Smooth-AP", ECCV 2020, equation 4).
- "mef_code": as the released code of MEF has it (qq456cvb/3DCorrEnhance, `finetune.py`): every positive pair is an anchor of its own, ranked among
  the negatives only, and a second precision ranks the negatives against the constant 1: AP1 = a / (a + sum G(n - 1)), a = 1 + G(s - 1);
  AP2 = b / (b + sum G(n - s)), b = 1 + G(1 - s); mean over all positive pairs of 1 - (AP1 + AP2) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from perception.core.errors import InputError

Form = Literal["mef_code", "brown"]

_BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Entries of the matrices of one block: few enough for the cache of a CPU core, many enough to fill a GPU."""


class SmoothAP(NamedTuple):
    """loss: scalar, 0 with zero gradient where nothing is positive · num_anchors: scalar int64, what the loss is the mean over: positive pairs
    ("mef_code") or queries with a positive ("brown")."""

    loss: Float[Tensor, ""]
    num_anchors: Int[Tensor, ""]


@dataclass(frozen=True)
class _Settings:
    positive_below: float
    negative_above: float
    temperature: float
    form: Form


@dataclass(frozen=True)
class _Block:
    """What one block of queries adds: sum of the losses of its anchors, their number, and the gradient of that sum by the scores (rows, items)."""

    loss_sum: Tensor
    num: int
    grad_scores: Tensor


def smooth_ap_loss(
    query: Float[Tensor, "batch query dim"],
    item: Float[Tensor, "batch item dim"],
    query_points: Float[Tensor, "batch query 3"],
    item_points: Float[Tensor, "batch item 3"],
    *,
    positive_below: float = 5e-3,
    negative_above: float = 0.1,
    temperature: float = 0.01,
    form: Form = "mef_code",
) -> SmoothAP:
    """SmoothAP of queries among items, from the queries' side only (swap the arguments for the other one).

    Descriptors of unit length; half precision is computed in float32. Items nearer (strictly) in 3D than `positive_below` are positives, farther
    than `negative_above` negatives, in the unit of the points; what lies between is ignored, and so are points that are NaN. Distances are computed
    in the type of the points: float64 where coordinates are large against `positive_below`, since torch.cdist forms differences of squares.
    Anchors of the whole batch are averaged together. A second derivative raises RuntimeError.
    """
    _check(query, item, query_points, item_points)
    if not 0 < positive_below <= negative_above or not temperature > 0:
        raise InputError(
            f"SmoothAP: positive_below = {positive_below}, negative_above = {negative_above}, temperature = {temperature}: "
            "must be 0 < positive_below <= negative_above and temperature > 0"
        )
    exact = torch.promote_types(torch.promote_types(query.dtype, item.dtype), torch.float32)
    points = torch.promote_types(torch.promote_types(query_points.dtype, item_points.dtype), torch.float32)
    settings = _Settings(positive_below, negative_above, temperature, form)
    with torch.autocast(query.device.type, enabled=False):
        loss, num = _Function.apply(query.to(exact), item.to(exact), query_points.to(points), item_points.to(points), settings)
    return SmoothAP(loss, num)


def _check(query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor) -> None:
    for name, descriptors, points in (("query", query, query_points), ("item", item, item_points)):
        if descriptors.ndim != 3 or points.shape != (*descriptors.shape[:2], 3):
            raise InputError(
                f"SmoothAP: {name} descriptors {tuple(descriptors.shape)}, points {tuple(points.shape)}: must be (batch, n, dim), (batch, n, 3)"
            )
    if query.shape[::2] != item.shape[::2]:
        raise InputError(f"SmoothAP: queries {tuple(query.shape)}, items {tuple(item.shape)}: batch and length of descriptors must be equal")


class _Function(torch.autograd.Function):
    """Loss and gradient in the forward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
        grad_query, grad_item = torch.zeros_like(query), torch.zeros_like(item)
        total, num = query.new_zeros(()), 0
        rows = max(1, _block_elements(query) // max(1, item.shape[1]))
        for number in range(len(query)):
            for start in range(0, query.shape[1], rows):
                part = slice(start, start + rows)
                block, used = _of_rows(query[number, part], item[number], query_points[number, part], item_points[number], settings)
                if block is not None:
                    total, num = total + block.loss_sum, num + block.num
                    grad_query[number, part].index_add_(0, used, block.grad_scores @ item[number])
                    grad_item[number].addmm_(block.grad_scores.T, query[number, part][used])
        ctx.save_for_backward(grad_query, grad_item)
        ctx.num = num
        count = torch.tensor(num, device=query.device)
        ctx.mark_non_differentiable(count)
        return total / max(1, num), count

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_count: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # as it is under create_graph
            raise RuntimeError("SmoothAP has no second derivative: its gradient was computed without a graph; leave create_graph off")
        scale = grad_loss / max(1, ctx.num)
        grad_query, grad_item = (grad * scale if needed else None for grad, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False))
        return grad_query, grad_item, None, None, None


def _of_rows(query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor, settings: _Settings) -> tuple[_Block | None, Tensor]:
    """The block of some queries, and which of them have a positive: only these are computed."""
    distances = torch.cdist(query_points, item_points)
    row, col = torch.nonzero(distances < settings.positive_below, as_tuple=True)
    used, row = row.unique(return_inverse=True)
    if not len(row):
        return None, used
    scores = query[used] @ item.T
    anchors = scores[row, col]
    is_negative = distances[used] > settings.negative_above
    hidden = scores.masked_fill_(~is_negative, -torch.inf)
    compute = _mef_code if settings.form == "mef_code" else _brown
    return compute(hidden, anchors, row, col, settings.temperature), used


def _mef_code(hidden: Tensor, anchors: Tensor, row: Tensor, col: Tensor, temperature: float) -> _Block:
    """hidden (rows, items): scores of negatives, -inf elsewhere · anchors (num,): scores of the positive pairs (row, col), sorted by row."""
    grad = torch.zeros_like(hidden)
    below_one, above_anchor = _step(anchors - 1, temperature), _step(1 - anchors, temperature)
    negatives_above_one = _step(hidden - 1, temperature)
    loss_1, grad_head_1, grad_num_1 = _precision_loss(1 + below_one, negatives_above_one.sum(1)[row])
    weight = torch.zeros_like(hidden[:, 0]).index_add_(0, row, grad_num_1)
    grad.addcmul_(weight[:, None], _slope(negatives_above_one, temperature))
    grad_anchor = grad_head_1 * below_one * (1 - below_one) / temperature
    loss = loss_1.sum()
    for part in _parts(len(row), hidden):
        negatives_above = _step(hidden[row[part]].sub_(anchors[part, None]), temperature)
        loss_2, grad_head_2, grad_num_2 = _precision_loss(1 + above_anchor[part], negatives_above.sum(1))
        slope = _slope(negatives_above, temperature).mul_(grad_num_2[:, None])
        grad.index_add_(0, row[part], slope)
        grad_anchor[part] -= slope.sum(1) + grad_head_2 * above_anchor[part] * (1 - above_anchor[part]) / temperature
        loss = loss + loss_2.sum()
    grad.index_put_((row, col), grad_anchor, accumulate=True)
    return _Block(loss / 2, len(row), grad / 2)


def _brown(hidden: Tensor, anchors: Tensor, row: Tensor, col: Tensor, temperature: float) -> _Block:
    """As `_mef_code`. The positives of a row stand side by side in `padded`, so that each is compared with the others of its row."""
    grad = torch.zeros_like(hidden)
    count = torch.bincount(row, minlength=len(hidden))
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    padded = hidden.new_full((len(hidden), int(count.max())), -torch.inf)
    padded[row, rank] = anchors
    share = 1 / count[row].to(hidden.dtype)
    loss, grad_padded = hidden.new_zeros(()), torch.zeros_like(padded)
    for part in _parts(len(row), hidden):
        rows, own = row[part], (row[part], rank[part])
        negatives_above = _step(hidden[rows].sub_(anchors[part, None]), temperature)
        positives_above = _step(padded[rows].sub_(anchors[part, None]), temperature).scatter_(1, rank[part, None], 0)
        loss_part, grad_head, grad_num = _precision_loss(1 + positives_above.sum(1), negatives_above.sum(1))
        slope = _slope(negatives_above, temperature).mul_((share[part] * grad_num)[:, None])
        slope_positives = _slope(positives_above, temperature).mul_((share[part] * grad_head)[:, None])
        grad.index_add_(0, rows, slope)
        grad_padded.index_add_(0, rows, slope_positives)
        grad_padded.index_put_(own, -slope.sum(1) - slope_positives.sum(1), accumulate=True)
        loss = loss + (share[part] * loss_part).sum()
    grad.index_put_((row, col), grad_padded[row, rank], accumulate=True)
    return _Block(loss, len(hidden), grad)


def _step(gap: Tensor, temperature: float) -> Tensor:
    """The sigmoid in place of the step function; writes into `gap`."""
    return gap.div_(temperature).sigmoid_()


def _slope(step: Tensor, temperature: float) -> Tensor:
    """Derivative of the sigmoid by the gap, from its value; writes into `step`."""
    return step.addcmul_(step, step, value=-1).div_(temperature)


def _precision_loss(head: Tensor, num_above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1 - head / (head + num_above) and its derivatives by both."""
    whole = head + num_above
    return num_above / whole, -num_above / whole**2, head / whole**2


def _block_elements(like: Tensor) -> int:
    return _BLOCK_ELEMENTS.get(like.device.type, _BLOCK_ELEMENTS["cpu"])


def _parts(num: int, hidden: Tensor) -> list[slice]:
    """Anchors 0 to num in parts, each compared with all items of its row."""
    size = max(1, _block_elements(hidden) // max(1, hidden.shape[1]))
    return [slice(start, start + size) for start in range(0, num, size)]
