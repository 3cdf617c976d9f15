"""The scale of least absolute differences against trying all candidates."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import PARITY

from perception.core.errors import InputError
from perception.geometry.robust_scale import robust_scale, robust_scale_of_points


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    source = draw()
    return source, 1.7 * source + 0.3 * draw() * (draw() > 0), draw().abs()


def least_cost(source, target, weight, truncation):
    """Plain twin: the cost at every candidate."""
    cost = weight[..., None, :] * ((target / source)[..., :, None] * source[..., None, :] - target[..., None, :]).abs()
    return (cost if truncation is None else cost.clamp(max=truncation)).sum(-1).amin(-1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([None, 1e-3, 0.05, 0.5, 100.0]))
def test_no_candidate_costs_less(count, seed, truncation):
    source, target, weight = numbers(count, seed=seed)
    fit = robust_scale(source, target, weight, truncation)
    torch.testing.assert_close(fit.cost, least_cost(source, target, weight, truncation))
    torch.testing.assert_close(fit.scale, target[fit.entry] / source[fit.entry])


@pytest.mark.parametrize("truncation", [None, 0.05])
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_batches_are_rows_of_their_own(batch, truncation):
    source, target, weight = numbers(*batch, 40)
    fit = robust_scale(source, target, weight, truncation)
    assert fit.scale.shape == fit.cost.shape == fit.entry.shape == batch
    torch.testing.assert_close(fit.cost, least_cost(source, target, weight, truncation))


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_scale_follows_the_units_of_both_sides(source_unit, target_unit):
    source, target, weight = numbers(50)
    fit, other = robust_scale(source, target, weight), robust_scale(source_unit * source, target_unit * target, weight)
    torch.testing.assert_close(other.scale, fit.scale * target_unit / source_unit)


def test_a_third_of_wrong_targets_does_not_move_an_exact_scale():
    source, _, weight = numbers(90)
    target = 2.5 * source
    target[:30] = 100.0
    weight[:30] *= 0.5
    assert float(robust_scale(source, target, weight).scale) == pytest.approx(2.5)


@pytest.mark.parametrize("truncation", [None, 0.05])
def test_scale_is_differentiable_through_the_entry_that_decides(truncation):
    source, _, weight = numbers(9)
    target = numbers(9, seed=1)[0]
    leaves = source.requires_grad_(), target.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: robust_scale(a, b, weight, truncation).scale, leaves)


@pytest.mark.parametrize("truncation", [None, 0.05])
def test_nothing_to_go_by_is_nan_and_entries_without_weight_never_count(truncation):
    source, target, weight = numbers(2, 8)
    weight[0] = 0
    source[1, :7] = 0
    fit = robust_scale(source, target, weight, truncation)
    assert torch.isnan(fit.scale[0])
    assert float(fit.scale[1]) == pytest.approx(float(target[1, 7] / source[1, 7]))


def test_no_numbers_and_a_truncation_of_nothing_are_refused():
    nothing = torch.zeros(2, 0)
    with pytest.raises(InputError, match="n >= 1"):
        robust_scale(nothing, nothing, nothing)
    with pytest.raises(InputError, match="truncation = 0"):
        robust_scale(*numbers(3), truncation=0)


PI3_LOSSES = sorted(path.parent for path in PARITY.rglob("config.json") if "high_quality" in json.loads(path.read_text()))


@pytest.mark.parity
@pytest.mark.parametrize("folder", PI3_LOSSES, ids=str)
def test_scales_are_those_of_the_official_solver(folder):
    with np.load(folder / "inputs.npz") as stored:
        given_ = {name: torch.from_numpy(stored[name]) for name in stored}
    with np.load(folder / "outputs.npz") as stored:
        expected = {name: stored[name] for name in stored}
    fit = robust_scale(given_["align_x"], given_["align_y"], given_["align_w"])
    np.testing.assert_allclose(fit.scale, expected["align_a"], rtol=1e-5)
    np.testing.assert_allclose(fit.cost, expected["align_loss"], rtol=1e-5)
    np.testing.assert_array_equal(fit.entry, expected["align_index"])
    for name in expected:
        if name.startswith("align_trunc") and name.endswith("_a"):
            truncated = robust_scale(given_["align_x"], given_["align_y"], given_["align_w"], float(name[len("align_trunc") : -2]))
            np.testing.assert_allclose(truncated.scale, expected[name], rtol=1e-5)
            np.testing.assert_allclose(truncated.cost, expected[name[:-2] + "_loss"], rtol=1e-5)
    of_points = robust_scale_of_points(given_["aps_src"], given_["aps_tgt"], given_["aps_w"])
    np.testing.assert_allclose(of_points.scale, expected["align_points_scale"], rtol=1e-5)
