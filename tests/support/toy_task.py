"""The smallest thing that can be trained: a network that learns a fixed linear map, on samples that are functions of their number."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.loop.config import OptimiserConfig, TrainConfig
from perception_training.loop.task import Task

WIDTH = 6


@dataclass(frozen=True)
class ToyBatch:
    """Inputs and what they should become, with names as `data.collation.Batch` has them."""

    inputs: torch.Tensor
    targets: torch.Tensor
    datasets: tuple[str, ...]
    sequences: tuple[str, ...]
    frame_names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Checked):
    """What the toy does."""

    hidden: int = 8
    """Width of the hidden layer."""
    dropout: float = 0.0
    """Share of hidden values that are left out, which draws from torch's generator."""
    bad_sample: int = -1
    """Number of a sample that holds a NaN."""
    missing: bool = False
    """Behave as when the data set is not there."""
    step_s: float = 0.0
    """Time that a batch takes."""
    double: bool = False
    """Compute in float64, in which sums hardly depend on their order."""


class ToyTask(Task):
    """Mean squared error and a penalty on the output."""

    memory_settings = ("toy.hidden",)

    def __init__(self, config: ToyConfig, train: TrainConfig) -> None:
        self.config, self.train = config, train
        self.module = nn.Sequential(nn.Linear(WIDTH, config.hidden), nn.Tanh(), nn.Dropout(config.dropout), nn.Linear(config.hidden, WIDTH))
        if config.double:
            self.module.double()
        self.truth = torch.from_numpy(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)).astype(np.float32))

    def data(self, start, rank, world_size):
        number = start
        while True:
            size = self.train.batch_size
            yield self.batch([(number * size + place) * world_size + rank for place in range(size)])
            number += 1

    def batch(self, numbers):
        if self.config.step_s:
            import time

            time.sleep(self.config.step_s)
        values = np.stack([np.random.default_rng((self.train.seed, number)).normal(size=WIDTH) for number in numbers]).astype(np.float32)
        values[[number == self.config.bad_sample for number in numbers]] = np.nan
        inputs = torch.from_numpy(values).to(self.module[0].weight.dtype)
        names = tuple((f"{number}",) for number in numbers)
        return ToyBatch(inputs, inputs @ self.truth.to(inputs), ("toy",) * len(numbers), ("only",) * len(numbers), names)

    def losses(self, batch):
        outputs = self.module(batch.inputs)
        return {"fit": (1.0, (outputs - batch.targets).square().mean()), "size": (0.01, outputs.square().mean())}

    def evaluate(self, step):
        torch.rand(3)  # an evaluation may draw, and must not change the training
        batch = self.batch(range(10_000, 10_016))
        return {"error": float((self.module(batch.inputs) - batch.targets).square().mean())}


@dataclass(frozen=True, kw_only=True)
class ToyRecipe(Checked):
    """A recipe as methods have them."""

    train: TrainConfig = field(default_factory=TrainConfig)
    toy: ToyConfig = field(default_factory=ToyConfig)

    def build(self) -> ToyTask:
        if self.toy.missing:
            raise InputError("data set toy: /nowhere: no such folder")
        return ToyTask(self.toy, self.train)


def toy() -> ToyRecipe:
    """30 steps with everything switched on that is drawn or remembered."""
    train = TrainConfig(
        steps=30, batch_size=4, num_workers=0, optimiser=OptimiserConfig(learning_rate=1e-2), ema_decay=0.9, clip_norm=1.0, precision="float32",
        device="cpu", log_every=1, checkpoint_every=5, evaluate_every=10,
    )  # fmt: skip
    return ToyRecipe(train=train, toy=ToyConfig(dropout=0.2))
