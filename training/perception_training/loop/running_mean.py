"""A running (exponential moving) mean of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from perception.core.errors import WeightsError
from perception_training.loop.sharding import as_sharded, as_whole


class RunningMean:
    """mean ← decay · mean + (1 - decay) · weights after each step, of the trainable parameters; with `warm_up`, step k (0, 1, ...) uses
    min(decay, (1 + k) / (10 + k)), as TensorFlow's ExponentialMovingAverage(num_updates=k) does. Buffers are taken as they are."""

    def __init__(self, module: nn.Module, decay: float, warm_up: bool) -> None:
        self.decay, self.warm_up = decay, warm_up
        self._names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._means = [parameter.detach().clone() for parameter in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
        torch._foreach_lerp_(self._means, [parameter.detach() for parameter in self._weights], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the mean as its weights while this lasts."""
        weights = [parameter.detach().clone() for parameter in self._weights]
        self._set_weights(self._means)
        try:
            yield
        finally:
            self._set_weights(weights)

    @torch.no_grad()
    def _set_weights(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._weights, values, strict=True):
            parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """The mean by the names of the parameters, whole also where it is sharded (then every rank must call)."""
        return {name: as_whole(mean) for name, mean in zip(self._names, self._means, strict=True)}

    def load(self, tensors: Mapping[str, Tensor], place: str) -> None:
        """Put back what `tensors` gave."""
        different = sorted(set(self._names) ^ set(tensors))
        if different:
            raise WeightsError(f"{place}: belongs to another architecture; the first parameters that differ: {', '.join(different[:4])}")
        for name, mean in zip(self._names, self._means, strict=True):
            mean.copy_(as_sharded(tensors[name], mean))
