"""Schedules against torch's, and against what they say of themselves."""

from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR

from perception.core.errors import ConfigError
from perception_training.loop.config import OptimiserConfig, ScheduleConfig
from perception_training.loop.schedules import learning_rate_factor, weight_decay_factor


def of_torch(make, steps, base=1.0):
    """The rates of torch's scheduler, step by step."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimiser)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def ours(steps, **settings):
    return [learning_rate_factor(ScheduleConfig(**settings), step, steps) for step in range(steps)]


def test_cosine_is_torchs():
    assert ours(20, kind="cosine") == pytest.approx(of_torch(lambda optimiser: CosineAnnealingLR(optimiser, T_max=20), 20))


@pytest.mark.parametrize(("steps", "share"), [(50, 0.3), (20, 0.05), (7, 0.5)])
def test_one_cycle_is_torchs(steps, share):
    expected = of_torch(
        lambda optimiser: OneCycleLR(
            optimiser, max_lr=1.0, total_steps=steps + 1, pct_start=share, div_factor=25, final_div_factor=100, cycle_momentum=False
        ),
        steps + 1,
    )
    assert ours(steps + 1, kind="one_cycle", rise_share=share, first_factor=1 / 25, final_factor=1 / 2500) == pytest.approx(expected)


def test_linear_is_torchs():
    expected = of_torch(lambda optimiser: LinearLR(optimiser, start_factor=1.0, end_factor=0.1, total_iters=12), 12)
    assert ours(12, kind="linear", final_factor=0.1) == pytest.approx(expected)


def test_quarter_cosine_ends_at_its_final_factor_with_its_steepest_slope():
    factors = ours(101, kind="quarter_cosine", final_factor=0.01)
    assert factors[0] == 1.0
    assert learning_rate_factor(ScheduleConfig(kind="quarter_cosine", final_factor=0.01), 101, 101) == pytest.approx(0.01)
    falls = [before - after for before, after in pairwise(factors)]
    assert falls == sorted(falls)


def test_after_the_warm_up_the_schedule_runs_over_the_other_steps():
    factors = ours(30, kind="cosine", warm_up_steps=10, warm_up_factor=0.1)
    assert factors[0] == pytest.approx(0.1)
    assert factors[5] == pytest.approx(0.55)
    assert factors[10:] == pytest.approx(ours(20, kind="cosine"))


def test_one_cycle_takes_no_warm_up():
    with pytest.raises(ConfigError, match="must be 0 with one_cycle"):
        ScheduleConfig(kind="one_cycle", warm_up_steps=3)


def test_weight_decay_goes_to_its_final_value_along_a_cosine():
    config = OptimiserConfig(weight_decay=0.04, final_weight_decay=0.4)
    assert [0.04 * weight_decay_factor(config, step, 10) for step in (0, 5, 10)] == pytest.approx([0.04, 0.22, 0.4])
    assert weight_decay_factor(OptimiserConfig(), 7, 10) == 1.0
