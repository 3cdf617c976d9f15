"""What is trained, as the trainer sees it. Methods do not know of it; a recipe makes one from a method and its data."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from perception_training.loop.config import TrainConfig
from perception_training.loop.parameter_groups import ParameterGroup, groups_with_decay

Losses = Mapping[str, tuple[float, Tensor]]
"""Named terms: weight and scalar. What is minimised is the sum of weight times value; a weight of 0 is an error (leave the term out)."""


class Task(abc.ABC):
    """One thing to train.

    module: everything that is trained, and all that has to be moved to the device with it. The trainer moves it, puts it into training mode before
    a step and into evaluation mode for `evaluate` and `export` (frozen parts that must stay in evaluation mode override `train`).
    Checkpoints hold its buffers and its trainable parameters. Frozen parameters are left out, because building the task gives them again, except
    those whose name begins with an entry of `saved_frozen` (a teacher that follows the student).
    memory_settings: names of settings of the recipe that lower the memory of a step ("data.height"); said when a device runs out of it.
    """

    module: nn.Module
    saved_frozen: tuple[str, ...] = ()
    memory_settings: tuple[str, ...] = ()

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trainable parameter of `module` in exactly one group. Default: biases and 1-D parameters without weight decay, the others with."""
        return groups_with_decay(self.module)

    @abc.abstractmethod
    def data(self, start: int, rank: int, world_size: int) -> Iterable[Any]:
        """Batches `start`, `start` + 1, ... of this rank without end; asked for anew when a run is resumed.

        Batch k of a rank must be a pure function of (seed, k, rank, world_size). `data.loading.make_loader(mixture, LoaderConfig(batch_size=...,
        num_workers=..., pin_memory=...), start, rank, world_size)` is one such. With accumulation a step takes several batches. A batch is a
        `data.collation.Batch`, a dataclass, or a mapping or sequence of tensors (nested as you like); the trainer moves it to the device.
        """

    def begin(self) -> None:  # noqa: B027
        """Before the first step of a run that is not resumed, on the CPU: compute in closed form what the first step starts from. The same on every
        rank; frozen parameters that are set here belong into `saved_frozen`."""

    @abc.abstractmethod
    def losses(self, batch: Any) -> Losses:
        """The terms of one batch, means over its samples. Runs under autocast; call `self.module(...)` itself (not only parts of it), which `fsdp`
        relies on. Draw randomness from torch's generators, which checkpoints hold."""

    def after_step(self, step: int) -> None:  # noqa: B027
        """After `step` optimiser steps (1, 2, ...), without gradients: a teacher follows, a temperature changes. Only `step` and what the checkpoint
        holds may have a say, so that a resumed run goes the same way."""

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Figures after `step` steps, with the running mean of the weights where there is one. Called on every rank; rank 0's are logged."""
        return {}

    def export(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """After the last step, on rank 0: write what is used later. `weights`: the whole state of `module` on the CPU, running mean where there is
        one; outside `fsdp`, `module` holds the same. Default: `folder`/weights.safetensors."""
        from perception_training.loop.tensor_files import write_tensors

        write_tensors(folder / "weights.safetensors", weights)


class Recipe(Protocol):
    """A full configuration: a frozen dataclass (best of `Checked` parts) whose fields become `--field value` on the command line.

    Functions that return one are listed in `recipes.RECIPES`. Beside `train` it has the settings of its method and its data.
    """

    @property
    def train(self) -> TrainConfig:
        """Settings of the engine."""

    def build(self) -> Task:
        """Make the task: network, data, losses. Raises PerceptionError for what a user can mend (a data set that is not there)."""
