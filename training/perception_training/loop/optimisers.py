"""The optimiser of a run, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from perception.core.errors import WeightsError
from perception_training.loop.config import TrainConfig
from perception_training.loop.parameter_groups import ParameterGroup
from perception_training.loop.schedules import learning_rate_factor, weight_decay_factor
from perception_training.loop.sharding import as_sharded, as_whole

_SEPARATOR = "/"
"""Between the kind of state and the name of a parameter ("exp_avg/stem.weight"); no parameter has it in its name."""


def make_optimiser(config: TrainConfig, groups: Sequence[ParameterGroup]) -> Optimizer:
    """An optimiser of these groups; `set_rates` gives it its rates before each step."""
    entries = []
    for group in groups:
        weight_decay = config.optimiser.weight_decay if group.weight_decay is None else group.weight_decay
        entry = {"params": list(group.parameters), "name": group.name, "lr_scale": group.lr_scale, "full_weight_decay": weight_decay}
        entries.append(entry)
    settings = config.optimiser
    if settings.name == "sgd":
        return SGD(entries, lr=settings.learning_rate, momentum=settings.beta1)
    kind = AdamW if settings.name == "adamw" else Adam
    return kind(entries, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)


def set_rates(optimiser: Optimizer, config: TrainConfig, step: int) -> float:
    """Set learning rate and weight decay of every group for step `step` (0, 1, ...). Returns the learning rate of a group of scale 1."""
    learning_rate = config.optimiser.learning_rate * learning_rate_factor(config.schedule, step, config.steps)
    decay_factor = weight_decay_factor(config.optimiser, step, config.steps)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["lr_scale"]
        group["weight_decay"] = group["full_weight_decay"] * decay_factor
    return learning_rate


def optimiser_tensors(optimiser: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The state of every parameter under "kind/parameter name", whole also where it is sharded (then every rank must call)."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = {}
    for parameter, state in optimiser.state.items():
        for kind, value in state.items():
            if value is not None:
                found[f"{kind}{_SEPARATOR}{names[id(parameter)]}"] = as_whole(torch.as_tensor(value))
    return found


def load_optimiser(optimiser: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], place: str) -> None:
    """Put back what `optimiser_tensors` gave. Raises WeightsError that names the first parameters that the optimiser does not have."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    of_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(_SEPARATOR)
        of_name.setdefault(name, {})[kind] = value
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    unknown = sorted(set(of_name) - {names[id(parameter)] for parameter in parameters})
    if unknown:
        raise WeightsError(f"{place}: has state of {len(unknown)} parameters that are not trained here, the first: {', '.join(unknown[:4])}")
    state: dict[int, dict[str, Any]] = {}
    for number, parameter in enumerate(parameters):
        entries = of_name.get(names[id(parameter)])
        if entries is not None:
            state[number] = {kind: as_sharded(value, parameter) if value.ndim else value for kind, value in entries.items()}
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
