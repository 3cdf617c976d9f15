"""The running mean of the weights."""

import pytest
import torch
from torch import nn

from perception.core.errors import WeightsError
from perception_training.loop.running_mean import RunningMean


def walked(decay, warm_up, count):
    """A module whose weight is 1, 2, ... after its steps, and its mean."""
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, 0.0)
    mean = RunningMean(module, decay, warm_up)
    for step in range(count):
        nn.init.constant_(module.weight, step + 1.0)
        mean.update(step)
    return module, mean


def test_mean_is_the_sum_over_all_weights_with_falling_shares():
    _, mean = walked(0.9, False, 20)
    expected = sum(0.1 * 0.9 ** (20 - k) * k for k in range(1, 21))
    assert mean.tensors()["weight"].item() == pytest.approx(expected, rel=1e-12)


def test_with_warm_up_the_memory_grows_until_it_is_the_decay():
    _, mean = walked(0.5, True, 20)
    expected = 0.0
    for step in range(20):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert mean.tensors()["weight"].item() == pytest.approx(expected, rel=1e-12)


def test_the_module_has_the_mean_only_while_it_is_asked_for():
    module, mean = walked(0.9, False, 5)
    with mean.in_place():
        assert torch.equal(module.weight, mean.tensors()["weight"])
    assert module.weight.item() == 5.0


def test_frozen_parameters_are_left_out_and_other_names_are_an_error():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    mean = RunningMean(module, 0.9, False)
    assert set(mean.tensors()) == {"1.weight", "1.bias"}
    with pytest.raises(WeightsError, match=r"differ: 0\.weight"):
        mean.load({**mean.tensors(), "0.weight": torch.zeros(2, 2)}, "here")


def test_statistics_of_batch_norms_are_averaged_with_the_weights():
    """Stored with the checkpoint and taken with it; counters and buffers that are not stored are left alone."""
    module = nn.BatchNorm1d(1)
    module.register_buffer("table", torch.zeros(1), persistent=False)
    mean = RunningMean(module, 0.9, False)
    for step, value in enumerate((1.0, 2.0)):
        module.running_mean.fill_(value)
        mean.update(step)
    assert set(mean.tensors()) == {"weight", "bias", "running_mean", "running_var"}
    with mean.in_place():
        assert module.running_mean.item() == pytest.approx(0.9 * 0.1 * 1.0 + 0.1 * 2.0)
    assert module.running_mean.item() == 2.0
