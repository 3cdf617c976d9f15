"""Parameters that share a learning rate and a weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from perception.core.errors import ConfigError


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """One group. `lr_scale` multiplies `OptimiserConfig.learning_rate`; `weight_decay` None: that of the configuration."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr_scale: float = 1.0
    weight_decay: float | None = None


def groups_with_decay(module: nn.Module, name: str = "all", lr_scale: float = 1.0, weight_decay: float | None = None) -> list[ParameterGroup]:
    """The trainable parameters of `module` in at most two groups: matrices and filters with weight decay, biases and all that is 1-D
    (scales of norms, tokens of one axis) without. Groups of no parameters are left out."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        ParameterGroup(name, tuple(parameter for parameter in trainable if parameter.ndim > 1), lr_scale, weight_decay),
        ParameterGroup(f"{name}_no_decay", tuple(parameter for parameter in trainable if parameter.ndim <= 1), lr_scale, 0.0),
    ]
    return [group for group in groups if group.parameters]


def check_groups(module: nn.Module, groups: list[ParameterGroup]) -> None:
    """Raise ConfigError unless the groups hold every trainable parameter of `module` exactly once and nothing else, under different names."""
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise ConfigError(f"parameter groups {names}: names must be different")
    of_parameter: dict[int, str] = {}
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in groups:
        for parameter in group.parameters:
            if id(parameter) not in known:
                raise ConfigError(f"parameter group {group.name}: holds a parameter of shape {tuple(parameter.shape)} that the module does not have")
            if id(parameter) in of_parameter:
                raise ConfigError(
                    f"parameter {known[id(parameter)]}: is in the groups {of_parameter[id(parameter)]} and {group.name}, must be in one"
                )
            of_parameter[id(parameter)] = group.name
    _check_none_left(module, of_parameter)


def _check_none_left(module: nn.Module, of_parameter: Mapping[int, str]) -> None:
    left = [name for name, parameter in module.named_parameters() if parameter.requires_grad and id(parameter) not in of_parameter]
    if left:
        raise ConfigError(f"{len(left)} trainable parameters are in no group, the first: {', '.join(left[:4])}; freeze them or add them")
    if not of_parameter:
        raise ConfigError(f"{type(module).__name__}: no parameter is trainable")
