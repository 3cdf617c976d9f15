"""A running (exponential moving) mean of the trained weights and of the statistics that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from perception.core.errors import WeightsError
from perception_training.loop.sharding import as_sharded, as_whole


class RunningMean:
    """mean ← decay · mean + (1 - decay) · weights after each step; with `warm_up`, step k (0, 1, ...) uses min(decay, (1 + k) / (10 + k)), as
    TensorFlow's ExponentialMovingAverage(num_updates=k) does.

    Of the trainable parameters and of the buffers of real numbers that are stored: the statistics of batch norms belong to the weights that they were
    taken with, and those of the last steps alone would not fit the mean."""

    def __init__(self, module: nn.Module, decay: float, warm_up: bool) -> None:
        self.decay, self.warm_up = decay, warm_up
        trained: dict[str, Tensor] = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        stored = module.state_dict(keep_vars=True)
        trained.update((name, buffer) for name, buffer in module.named_buffers() if name in stored and buffer.is_floating_point())
        self._names, self._weights = list(trained), list(trained.values())
        self._means = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
        torch._foreach_lerp_(self._means, [weight.detach() for weight in self._weights], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the mean as its weights while this lasts."""
        weights = [weight.detach().clone() for weight in self._weights]
        self._set_weights(self._means)
        try:
            yield
        finally:
            self._set_weights(weights)

    @torch.no_grad()
    def _set_weights(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """The mean by the names of the weights, whole also where it is sharded (then every rank must call)."""
        return {name: as_whole(mean) for name, mean in zip(self._names, self._means, strict=True)}

    def load(self, tensors: Mapping[str, Tensor], place: str) -> None:
        """Put back what `tensors` gave."""
        different = sorted(set(self._names) ^ set(tensors))
        if different:
            raise WeightsError(f"{place}: belongs to another architecture; the first weights that differ: {', '.join(different[:4])}")
        for name, mean in zip(self._names, self._means, strict=True):
            mean.copy_(as_sharded(tensors[name], mean))
