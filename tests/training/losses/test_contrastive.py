"""Losses that SmoothAP is compared with: exact values, gradcheck, little or nothing to go by."""

from __future__ import annotations

import pytest
import torch
from tests.support.closeness import assert_close
from torch.nn.functional import normalize

from perception.core.errors import InputError
from perception.geometry import so3
from perception.geometry.alignment import umeyama
from perception_training.losses.contrastive import info_nce_loss, margin_contrastive_loss
from perception_training.losses.diff_procrustes import diff_procrustes_loss, soft_nearest, weighted_procrustes


def views(num: int, dim: int = 6, seed: int = 0) -> tuple:
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    points = draw(1, num, 3)
    return normalize(draw(1, num, dim), dim=-1), normalize(draw(1, num, dim), dim=-1), points, points.clone()


def test_margins_leave_good_pairs_alone_and_square_what_is_beyond_them():
    axes = torch.eye(3, dtype=torch.float64)
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]], dtype=torch.float64)
    settings = dict(positive_below=0.1, negative_above=0.5, positive_margin=0.1, negative_margin=1.4)
    good = margin_contrastive_loss(axes[None, :2], axes[None, :2], points, points, **settings)  # distances 0 and sqrt(2) > 1.4
    swapped = margin_contrastive_loss(axes[None, :2], axes[None, [1, 0]], points, points, **settings)
    assert (float(good.loss), int(good.num_anchors)) == (0, 2)
    assert float(swapped.loss) == pytest.approx((2**0.5 - 0.1) ** 2 + 1.4**2, abs=1e-4)


def test_gradients_of_the_margin_loss():
    query, item, *points = views(5)
    leaves = query.requires_grad_(), item.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: margin_contrastive_loss(a, b, *points, negative_above=0.2).loss, leaves)


@pytest.mark.parametrize("loss", [margin_contrastive_loss, diff_procrustes_loss])
@pytest.mark.parametrize("num", [0, 5])
def test_without_positives_a_loss_is_zero_with_zero_gradient(loss, num):
    query, item, query_points, item_points = views(num)
    query.requires_grad_()
    result = loss(query, item, query_points, item_points + 100)
    result.loss.backward()
    assert (float(result.loss), int(result.num_anchors)) == (0, 0)
    assert not query.grad.any()


@pytest.mark.parametrize("loss", [margin_contrastive_loss, diff_procrustes_loss])
def test_nan_points_take_no_part(loss):
    query, item, query_points, item_points = views(12)
    without = loss(query[:, 2:], item[:, 2:], query_points[:, 2:], item_points[:, 2:])
    query_points[:, :2], item_points[:, :2] = torch.nan, torch.nan
    assert_close(loss(query, item, query_points, item_points).loss, without.loss)


def test_info_nce_is_the_cross_entropy_among_what_is_not_excluded():
    query, item, points, _ = (value[0] for value in views(6))
    place = points[:, :2]
    result = info_nce_loss(query, item, item, place, place, excluded_radius=0.5, temperature=0.2)
    score = query @ item.T / 0.2
    kept = (torch.cdist(place, place) > 0.5) | torch.eye(6, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(score.masked_fill(~kept, -1e9), torch.arange(6))
    assert_close(result.loss, expected, atol=1e-7)
    assert float(result.share_first) == pytest.approx(float((score.masked_fill(~kept, -1e9).argmax(1) == torch.arange(6)).double().mean()))


def test_info_nce_compares_places_within_an_image_only():
    query, item, *_ = (value[0] for value in views(4))
    place, groups = torch.zeros(4, 2), (torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]))
    among_all = info_nce_loss(query, item, item, place, place, excluded_radius=1.0)
    of_others = info_nce_loss(query, item, item, place, place, excluded_radius=1.0, item_groups=groups)
    assert float(among_all.loss) == pytest.approx(0, abs=1e-9)  # everything is excluded
    assert float(of_others.loss) > 0


def test_gradients_of_info_nce():
    query, item, points, _ = (value[0] for value in views(4))
    leaves = query.requires_grad_(), item.requires_grad_()
    loss = lambda a, b: info_nce_loss(a, b, b, points, points, excluded_radius=0.5, temperature=0.5).loss  # noqa: E731
    assert torch.autograd.gradcheck(loss, leaves)


def test_info_nce_without_queries_is_zero():
    empty, item = torch.zeros(0, 4, requires_grad=True), torch.ones(3, 4)
    result = info_nce_loss(empty, empty, item, torch.zeros(0, 2), torch.zeros(3, 2), excluded_radius=1.0)
    result.loss.backward()
    assert float(result.loss) == 0


def test_procrustes_finds_the_motion_that_umeyama_finds():
    _, _, source, _ = views(20)
    weight = torch.linspace(0.1, 1, 20, dtype=torch.float64)
    target = source[0] @ so3.exp(torch.tensor([0.3, -0.8, 1.9], dtype=torch.float64)).T + 0.1 * views(20, seed=1)[2][0]
    rotation, translation = weighted_procrustes(source[0], target, weight)
    expected = umeyama(source[0], target, weight, with_scale=False)
    assert_close(rotation, expected[:3, :3])
    assert_close(translation, expected[:3, 3])


@pytest.mark.parametrize("shape", ["general", "octahedron"])
def test_gradients_of_procrustes_are_right_even_for_round_shapes(shape):
    axes = torch.eye(3, dtype=torch.float64)
    source = views(7)[2][0] if shape == "general" else torch.cat([axes, -axes])
    target = (source @ so3.exp(torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64)).T).requires_grad_()
    weight = torch.ones(len(source), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b, w: weighted_procrustes(source, b, w), (target, weight))


def test_right_matches_cost_nothing_and_wrong_ones_the_motion_they_cause():
    axes = normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    points = views(8)[2]
    right = diff_procrustes_loss(axes[None], axes[None], points, points)
    wrong = diff_procrustes_loss(axes[None], axes[None].roll(1, 1), points, points)
    assert float(right.loss) == pytest.approx(0, abs=1e-9)
    assert float(wrong.loss) > 0.1


def test_descending_the_procrustes_loss_makes_matches_better():
    query, item, *points = views(30, dim=16)
    leaf = query.clone().requires_grad_()
    optimiser = torch.optim.Adam([leaf], lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = diff_procrustes_loss(normalize(leaf, dim=-1), item, *points).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


def test_the_nearest_neighbour_is_hard_forwards_and_soft_backwards():
    query, item, points, _ = (value[0] for value in views(5))
    query.requires_grad_()
    matched, weight = soft_nearest(query, item, points, 0.5)
    nearest = torch.cdist(query, item).argmin(1)
    assert_close(matched.detach(), points[nearest])
    soft = torch.softmax(-torch.cdist(query, item) / 0.5, dim=1)
    assert_close(weight.detach(), soft.detach().amax(1))
    (found,), (expected,) = (torch.autograd.grad(value.sum(), query, retain_graph=True) for value in (matched, soft @ points))
    # cdist's own gradient also has the length of the query, along which unit descriptors do not move.
    along = lambda gradient: (gradient * query).sum(1, keepdim=True) * query / (query * query).sum(1, keepdim=True)  # noqa: E731
    assert_close((found - along(found)).detach(), (expected - along(expected)).detach(), atol=1e-7)


def test_wrong_margins_are_named():
    with pytest.raises(InputError, match="positive_margin < negative_margin"):
        margin_contrastive_loss(*views(3), positive_margin=1.0, negative_margin=0.5)
