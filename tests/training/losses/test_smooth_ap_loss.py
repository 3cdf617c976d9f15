"""SmoothAP: against plain autograd, exact average precision, gradcheck; and what it does with little or nothing to go by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.closeness import assert_close
from torch.nn.functional import normalize

from perception.core.errors import InputError
from perception.ops import smooth_ap
from perception.ops.smooth_ap import smooth_ap_loss

TEMPERATURE = 0.01


def problem(num_query: int, num_item: int, dim: int = 8, seed: int = 0, batch: int = 1, dtype: torch.dtype = torch.float64) -> tuple:
    """Descriptors that follow the place of a point on a small sphere, with noise, so that there are positives, ignored pairs and negatives."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(3, dim, generator=random, dtype=dtype)

    def view(num: int) -> tuple:
        points = normalize(torch.randn(batch, num, 3, generator=random, dtype=dtype), dim=-1) * 0.2
        return normalize(torch.sin(8 * points @ base) + 0.3 * torch.randn(batch, num, dim, generator=random, dtype=dtype), dim=-1), points

    (query, query_points), (item, item_points) = view(num_query), view(num_item)
    return query, item, query_points, item_points


def plain(query, item, query_points, item_points, form, positive_below, negative_above, temperature=TEMPERATURE):
    """Both forms as they are written, with all matrices at once."""
    distance = torch.cdist(query_points, item_points)
    score = query @ item.transpose(1, 2)
    positive, negative = distance < positive_below, distance > negative_above
    step = lambda gap: torch.sigmoid(gap / temperature)  # noqa: E731
    losses = []
    for b, i in torch.nonzero(positive.any(-1)).tolist():
        of_positives, of_negatives = score[b, i, positive[b, i]], score[b, i, negative[b, i]]
        of_query = []
        for number, s in enumerate(of_positives):
            if form == "brown":
                head = 1 + step(of_positives - s).sum() - step(of_positives - s)[number]
                of_query.append(1 - head / (head + step(of_negatives - s).sum()))
            else:
                first, second = 1 + step(s - 1), 1 + step(1 - s)
                precision = first / (first + step(of_negatives - 1).sum()) + second / (second + step(of_negatives - s).sum())
                of_query.append(1 - precision / 2)
        losses += [torch.stack(of_query).mean()] if form == "brown" else of_query
    return torch.stack(losses).mean()


@pytest.mark.parametrize("block_elements", [100, 1 << 19])
@pytest.mark.parametrize("form", ["mef_code", "brown"])
def test_blocks_give_the_loss_and_gradients_of_the_plain_form(form, block_elements, monkeypatch):
    monkeypatch.setitem(smooth_ap._BLOCK_ELEMENTS, "cpu", block_elements)
    query, item, *points = problem(60, 50, batch=2)
    settings = dict(form=form, positive_below=0.06, negative_above=0.1)
    results = []
    for compute in (plain, lambda *arguments, **settings: smooth_ap_loss(*arguments, **settings).loss):
        leaves = query.clone().requires_grad_(), item.clone().requires_grad_()
        loss = compute(*leaves, *points, **settings)
        (3 * loss).backward()
        results.append((loss.detach(), leaves[0].grad, leaves[1].grad))
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_at_low_temperature_brown_is_one_minus_exact_average_precision():
    query, item, *points = problem(40, 60)
    result = smooth_ap_loss(query, item, *points, form="brown", positive_below=0.08, negative_above=0.08, temperature=1e-7)
    score, positive = (query @ item.transpose(1, 2))[0].numpy(), (torch.cdist(*points) < 0.08)[0].numpy()
    precisions = []
    for row, is_positive in zip(score, positive, strict=True):
        if is_positive.any():
            ranked = is_positive[np.argsort(-row)]
            precisions.append((np.cumsum(ranked) / np.arange(1, len(row) + 1))[ranked].mean())
    assert float(result.loss) == pytest.approx(1 - np.mean(precisions), abs=1e-6)
    assert int(result.num_anchors) == len(precisions)


@pytest.mark.parametrize("form", ["mef_code", "brown"])
def test_gradcheck(form):
    query, item, *points = problem(7, 6, dim=4)
    leaves = query.requires_grad_(), item.requires_grad_()
    settings = dict(form=form, positive_below=0.1, negative_above=0.15, temperature=0.1)
    assert torch.autograd.gradcheck(lambda *leaves: smooth_ap_loss(*leaves, *points, **settings).loss, leaves)


@pytest.mark.parametrize("form", ["mef_code", "brown"])
def test_without_positives_the_loss_is_zero_with_zero_gradient(form):
    query, item, query_points, item_points = problem(5, 4)
    query.requires_grad_()
    result = smooth_ap_loss(query, item, query_points, item_points + 10, form=form)
    result.loss.backward()
    assert (float(result.loss), int(result.num_anchors)) == (0, 0)
    assert not query.grad.any()


@pytest.mark.parametrize("shapes", [(0, 5), (5, 0)])
def test_a_view_without_points_is_no_error(shapes):
    result = smooth_ap_loss(*problem(*shapes))
    assert (float(result.loss), int(result.num_anchors)) == (0, 0)


def test_points_that_are_nan_take_no_part():
    query, item, query_points, item_points = problem(30, 30)
    settings = dict(positive_below=0.06, negative_above=0.1)
    without = smooth_ap_loss(query[:, 3:], item[:, :-4], query_points[:, 3:], item_points[:, :-4], **settings)
    query_points[:, :3], item_points[:, -4:] = torch.nan, torch.nan
    assert_close(smooth_ap_loss(query, item, query_points, item_points, **settings).loss, without.loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    query, item, *points = problem(50, 50, dtype=torch.float32)
    rounded = query.to(dtype).requires_grad_(), item.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = smooth_ap_loss(*rounded, *points, positive_below=0.06)
    expected = smooth_ap_loss(*(leaf.detach().float() for leaf in rounded), *points, positive_below=0.06)
    found.loss.backward()
    assert found.loss.dtype == torch.float32
    assert_close(found.loss.detach(), expected.loss)
    assert rounded[0].grad.dtype == dtype
    assert rounded[0].grad.isfinite().all()


def test_a_second_derivative_is_refused():
    query, item, *points = problem(10, 10)
    query.requires_grad_()
    loss = smooth_ap_loss(query, item, *points, positive_below=0.1).loss
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, query, create_graph=True)


def test_wrong_shapes_and_thresholds_are_named():
    query, item, *points = problem(4, 4)
    with pytest.raises(InputError, match="item descriptors"):
        smooth_ap_loss(query, item[0], *points)
    with pytest.raises(InputError, match="length of descriptors must be equal"):
        smooth_ap_loss(query, item[..., :3], *points)
    with pytest.raises(InputError, match="positive_below <= negative_above"):
        smooth_ap_loss(query, item, *points, positive_below=0.2, negative_above=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", ["mef_code", "brown"])
def test_a_gpu_gives_the_same(form):
    arguments = problem(200, 150, batch=2)
    settings = dict(form=form, positive_below=0.06)
    found = smooth_ap_loss(*(argument.cuda() for argument in arguments), **settings)
    assert_close(found.loss.cpu(), smooth_ap_loss(*arguments, **settings).loss)
