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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from perception.core.errors import InputError
from perception.ops.pairs_of_points import PairLoss, check_pair, check_thresholds

Form = Literal["mef_code", "brown"]

_BLOCK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 24}
"""Entries of the matrices of one block: few enough for little memory, many enough that starting an operation costs nothing."""


@dataclass(frozen=True)
class _Settings:
    positive_below: float
    negative_above: float
    temperature: float
    form: Form


@dataclass(frozen=True)
class _Block:
    """What one block of queries adds: sum of the losses of its anchors, their number, and the gradient of that sum by
    the scores / temperature (rows, items)."""

    loss_sum: Tensor
    num: int
    grad_scores: Tensor


def smooth_ap_loss(
    query: Tensor,
    item: Tensor,
    query_points: Tensor,
    item_points: Tensor,
    *,
    positive_below: float = 5e-3,
    negative_above: float = 0.1,
    temperature: float = 0.01,
    form: Form = "mef_code",
) -> PairLoss:
    """SmoothAP of queries among items, from the queries' side only (swap the arguments for the other one).

    query (batch, n, dim), item (batch, m, dim): descriptors of unit length; half precision is computed in float32 · query_points (batch, n, 3),
    item_points (batch, m, 3). Items nearer (strictly) in 3D than `positive_below` are positives, farther than `negative_above` negatives, in the unit
    of the points; what lies between is ignored, and so are points that are NaN. Distances are computed in the type of the points: float64 where
    coordinates are large against `positive_below`, since torch.cdist forms differences of squares.
    Anchors of the whole batch are averaged together: positive pairs ("mef_code") or queries with a positive ("brown").
    A second derivative raises RuntimeError.
    """
    check_pair("SmoothAP", query, item, query_points, item_points)
    check_thresholds("SmoothAP", positive_below, negative_above)
    if not temperature > 0:
        raise InputError(f"SmoothAP: temperature = {temperature}: must be positive")
    exact = torch.promote_types(torch.promote_types(query.dtype, item.dtype), torch.float32)
    points = torch.promote_types(torch.promote_types(query_points.dtype, item_points.dtype), torch.float32)
    settings = _Settings(positive_below, negative_above, temperature, form)
    with torch.autocast(query.device.type, enabled=False):
        loss, num = _Function.apply(query.to(exact), item.to(exact), query_points.to(points), item_points.to(points), settings)
    return PairLoss(loss, num)


class _Function(torch.autograd.Function):
    """Loss and gradient in the forward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, item: Tensor, query_points: Tensor, item_points: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
        grad_query, grad_item = torch.zeros_like(query), torch.zeros_like(item)
        total, num = query.new_zeros(()), 0
        for number in range(len(query)):
            row, col = _positives(query_points[number], item_points[number], settings.positive_below)
            # Only queries with a positive are computed; `row` then counts among these.
            used, row = row.unique(return_inverse=True)
            for rows, pairs in _blocks(row, len(used), item.shape[1], _block_elements(query)):
                chosen = used[rows]
                scores = torch.addmm(query.new_zeros(()), query[number, chosen], item[number].T, alpha=1 / settings.temperature)
                is_far = torch.cdist(query_points[number, chosen], item_points[number]) > settings.negative_above
                block = _FORMS[settings.form](scores, is_far, row[pairs] - rows.start, col[pairs], 1 / settings.temperature)
                total, num = total + block.loss_sum, num + block.num
                grad_query[number].index_add_(0, chosen, block.grad_scores @ item[number])
                grad_item[number].addmm_(block.grad_scores.T, query[number, chosen])
        ctx.save_for_backward(grad_query, grad_item)
        ctx.scale = 1 / (settings.temperature * max(1, num))
        count = torch.tensor(num, device=query.device)
        ctx.mark_non_differentiable(count)
        return total / max(1, num), count

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, _grad_count: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # as it is under create_graph
            raise RuntimeError("SmoothAP has no second derivative: its gradient was computed without a graph; leave create_graph off")
        scale = grad_loss * ctx.scale
        grad_query, grad_item = (grad * scale if needed else None for grad, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False))
        return grad_query, grad_item, None, None, None


def _positives(query_points: Tensor, item_points: Tensor, below: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of the positive pairs, sorted by row."""
    size = max(1, 8 * _block_elements(query_points) // max(1, len(item_points)))
    found = [
        torch.nonzero(torch.cdist(part, item_points) < below) + torch.tensor([number * size, 0], device=part.device)
        for number, part in enumerate(query_points.split(size))
    ]
    pairs = torch.cat(found)
    return pairs[:, 0], pairs[:, 1]


def _blocks(row: Tensor, num_rows: int, num_items: int, elements: int) -> Iterator[tuple[slice, slice]]:
    """Rows in blocks, and with each the slice of the pairs, which are sorted by row, that lie in it."""
    size = max(1, elements // max(1, num_items))
    starts = list(range(0, num_rows, size))
    ends = torch.searchsorted(row, torch.tensor([*starts[1:], num_rows], device=row.device)).tolist() if starts else []
    for start, first, last in zip(starts, [0, *ends], ends, strict=False):
        yield slice(start, min(start + size, num_rows)), slice(first, last)


def _mef_code(scores: Tensor, is_far: Tensor, row: Tensor, col: Tensor, scale: float) -> _Block:
    """scores (rows, items), multiplied by `scale` = 1 / temperature, as gaps and derivatives are here · is_far: which are negatives ·
    row, col (num,): positive pairs, sorted by row. Overwrites scores."""
    anchors = scores[row, col]
    hidden = scores.masked_fill_(~is_far, -torch.inf)
    below_one, above_anchor = torch.sigmoid(anchors - scale), torch.sigmoid(scale - anchors)
    above_one = torch.sigmoid(hidden - scale)
    loss_1, grad_head_1, grad_num_1 = _precision_loss(1 + below_one, above_one.sum(1)[row])
    weight = torch.zeros_like(hidden[:, 0]).index_add_(0, row, grad_num_1)
    grad = _slope(above_one).mul_(weight[:, None])
    grad_anchor = grad_head_1 * below_one * (1 - below_one)
    loss = loss_1.sum()
    for part in _parts(len(row), hidden):
        above = hidden.index_select(0, row[part]).sub_(anchors[part, None]).sigmoid_()
        loss_2, grad_head_2, grad_num_2 = _precision_loss(1 + above_anchor[part], above.sum(1))
        slope = _slope(above).mul_(grad_num_2[:, None])
        grad.index_add_(0, row[part], slope)
        grad_anchor[part] -= slope.sum(1) + grad_head_2 * above_anchor[part] * (1 - above_anchor[part])
        loss = loss + loss_2.sum()
    grad.index_put_((row, col), grad_anchor, accumulate=True)
    return _Block(loss / 2, len(row), grad.div_(2))


def _brown(scores: Tensor, is_far: Tensor, row: Tensor, col: Tensor, scale: float) -> _Block:
    """As `_mef_code`. The positives of a row stand side by side in `padded`, so that each is compared with the others of its row."""
    anchors = scores[row, col]
    hidden = scores.masked_fill_(~is_far, -torch.inf)
    grad = torch.zeros_like(hidden)
    count = torch.bincount(row, minlength=len(hidden))
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    padded = hidden.new_full((len(hidden), int(count.max())), -torch.inf)
    padded[row, rank] = anchors
    share = 1 / count[row].to(hidden.dtype)
    loss, grad_padded = hidden.new_zeros(()), torch.zeros_like(padded)
    for part in _parts(len(row), hidden):
        rows, own = row[part], (row[part], rank[part])
        above = hidden.index_select(0, rows).sub_(anchors[part, None]).sigmoid_()
        beside = padded.index_select(0, rows).sub_(anchors[part, None]).sigmoid_().scatter_(1, rank[part, None], 0)
        loss_part, grad_head, grad_num = _precision_loss(1 + beside.sum(1), above.sum(1))
        slope = _slope(above).mul_((share[part] * grad_num)[:, None])
        slope_beside = _slope(beside).mul_((share[part] * grad_head)[:, None])
        grad.index_add_(0, rows, slope)
        grad_padded.index_add_(0, rows, slope_beside)
        grad_padded.index_put_(own, -slope.sum(1) - slope_beside.sum(1), accumulate=True)
        loss = loss + (share[part] * loss_part).sum()
    grad.index_put_((row, col), grad_padded[row, rank], accumulate=True)
    return _Block(loss, len(hidden), grad)


_FORMS = {"mef_code": _mef_code, "brown": _brown}


def _slope(step: Tensor) -> Tensor:
    """Derivative of the sigmoid from its value; writes into `step`."""
    return step.addcmul_(step, step, value=-1)


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
