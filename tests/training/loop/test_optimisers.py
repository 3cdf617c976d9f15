"""Parameter groups, rates, and the optimiser's state as tensors."""

import pytest
import torch
from torch import nn

from perception.core.errors import ConfigError, WeightsError
from perception_training.loop.config import OptimiserConfig, ScheduleConfig, TrainConfig
from perception_training.loop.optimisers import load_optimiser, make_optimiser, optimiser_tensors, set_rates
from perception_training.loop.parameter_groups import ParameterGroup, check_groups, groups_with_decay


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def step(module, optimiser):
    optimiser.zero_grad()
    module(torch.ones(2, 3, 5, 5)).square().mean().backward()
    optimiser.step()


def test_biases_and_scales_of_norms_have_no_weight_decay():
    module = network()
    decayed, free = groups_with_decay(module, "net", 0.5)
    assert {parameter.ndim for parameter in decayed.parameters} == {4}
    assert {parameter.ndim for parameter in free.parameters} == {1}
    assert (decayed.weight_decay, free.weight_decay, decayed.lr_scale, free.name) == (None, 0.0, 0.5, "net_no_decay")
    check_groups(module, [decayed, free])


def test_frozen_parameters_are_in_no_group():
    module = network()
    module[0].requires_grad_(False)
    groups = groups_with_decay(module)
    assert sum(len(group.parameters) for group in groups) == 4
    check_groups(module, groups)


def test_groups_that_leave_a_parameter_out_or_have_it_twice_are_errors():
    module = network()
    weight = ParameterGroup("a", (module[0].weight,))
    with pytest.raises(ConfigError, match=r"5 trainable parameters are in no group, the first: 0\.bias"):
        check_groups(module, [weight])
    with pytest.raises(ConfigError, match=r"parameter 0\.weight: is in the groups a and b"):
        check_groups(module, [weight, ParameterGroup("b", (module[0].weight,))])
    with pytest.raises(ConfigError, match="that the module does not have"):
        check_groups(module, [ParameterGroup("c", (nn.Parameter(torch.zeros(2)),))])
    with pytest.raises(ConfigError, match="names must be different"):
        check_groups(module, [weight, weight])


def test_rates_follow_schedule_and_group():
    config = TrainConfig(
        steps=10,
        optimiser=OptimiserConfig(learning_rate=0.1, weight_decay=0.2, final_weight_decay=0.0),
        schedule=ScheduleConfig(kind="linear"),
    )
    module = network()
    optimiser = make_optimiser(config, groups_with_decay(module, lr_scale=0.5))
    assert set_rates(optimiser, config, 5) == pytest.approx(0.05)
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.025, 0.025])
    assert [group["weight_decay"] for group in optimiser.param_groups] == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_state_put_back_gives_the_same_next_step(name):
    config = TrainConfig(optimiser=OptimiserConfig(name=name, learning_rate=0.1))
    one, other = network(), network()
    first = make_optimiser(config, groups_with_decay(one))
    step(one, first)
    step(one, first)
    tensors = {key: value.clone() for key, value in optimiser_tensors(first, one).items()}
    assert all(key.split("/")[1] in dict(one.named_parameters()) for key in tensors)
    other.load_state_dict(one.state_dict())
    second = make_optimiser(config, groups_with_decay(other))
    load_optimiser(second, other, tensors, "here")
    step(one, first)
    step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_state_of_parameters_that_are_not_trained_is_an_error():
    module = network()
    optimiser = make_optimiser(TrainConfig(), groups_with_decay(module))
    with pytest.raises(WeightsError, match=r"1 parameters that are not trained here, the first: stem\.weight"):
        load_optimiser(optimiser, module, {"exp_avg/stem.weight": torch.zeros(3)}, "here")
