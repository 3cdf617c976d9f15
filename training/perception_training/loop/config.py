"""Settings of the training engine, the same for every method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig(Checked):
    """How gradients become changes of the weights. Groups of parameters (`loop/parameter_groups.py`) scale what stands here."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """adam adds the weight decay to the gradient, adamw takes it from the weights; sgd has momentum `beta1`."""
    learning_rate: Annotated[float, Range(0.0)] = 1e-4
    """Highest learning rate of a group of scale 1."""
    beta1: Annotated[float, Range(0.0, 1.0)] = 0.9
    """Memory of the mean gradient."""
    beta2: Annotated[float, Range(0.0, 1.0)] = 0.999
    """Memory of the mean squared gradient."""
    epsilon: Annotated[float, Range(0.0)] = 1e-8
    """Added to the root of the mean squared gradient."""
    weight_decay: Annotated[float, Range(0.0)] = 0.01
    """Of groups that do not set their own."""
    final_weight_decay: Annotated[float, Range(-1.0)] = -1.0
    """From 0 on: weight decay goes to this value along a cosine; groups of their own weight decay in the same proportion. -1: it stays."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Checked):
    """The factor on every learning rate as a function of the step (`loop/schedules.py`)."""

    kind: Literal["constant", "cosine", "quarter_cosine", "linear", "one_cycle"] = "constant"
    """What follows the warm-up. cosine: half a period down to `final_factor`; quarter_cosine: a quarter of one, slow at first and steep at the end;
    one_cycle: cosine up for `rise_share` of the steps, then down (torch's OneCycleLR without its cycle of momentum; takes no warm-up)."""
    warm_up_steps: Annotated[int, Range(0)] = 0
    """The factor rises linearly from `warm_up_factor` to 1 over so many steps."""
    warm_up_factor: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Factor of step 0 of the warm-up."""
    final_factor: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Factor after the last step."""
    rise_share: Annotated[float, Range(0.0, 1.0)] = 0.3
    """one_cycle: share of the steps in which it rises."""
    first_factor: Annotated[float, Range(0.0, 1.0)] = 0.04
    """one_cycle: factor of step 0 (1 / div_factor)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "one_cycle" and self.warm_up_steps:
            raise ConfigError(f"ScheduleConfig.warm_up_steps = {self.warm_up_steps}: must be 0 with one_cycle, which rises by itself (rise_share)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """How a task is trained, whatever it is."""

    out: str = ""
    """Run folder: configuration, environment, logs, checkpoints, export. Left empty: runs/NAME OF THE RECIPE."""
    resume: bool = False
    """Go on from the last checkpoint of the run folder (from the start where there is none yet)."""
    steps: Annotated[int, Range(0)] = 1000
    """Optimiser steps of the whole run."""
    batch_size: Annotated[int, Range(1)] = 8
    """Samples of a forward pass of one process; a step sees batch_size x accumulation x processes."""
    accumulation: Annotated[int, Range(1)] = 1
    """Forward and backward passes whose mean gradient makes a step."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_norm: Annotated[float, Range(0.0)] = 0.0
    """Scale gradients down to this norm over all parameters; 0: as they are."""
    ema_decay: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Above 0: keep a running mean of the weights, which is evaluated and exported."""
    ema_warm_up: bool = True
    """Begin with a shorter memory, min(ema_decay, (1 + step) / (10 + step)), so that the first weights are forgotten."""
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    """Of matrix products and convolutions. auto: bfloat16 where the hardware computes it, otherwise float32."""
    seed: Annotated[int, Range(0)] = 0
    """Of all that is drawn: first weights, dropout, data."""
    deterministic: bool = False
    """Only operations that give the same bits every time, and an error for those that have no such form."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    distribution: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun. auto, ddp: every process has all weights. fsdp: weights, gradients and optimiser state are shared out."""
    find_unused_parameters: bool = False
    """ddp: some steps leave some parameters out."""
    num_workers: Annotated[int, Range(0)] = 2
    """Processes that read data for each training process; 0: this one."""
    checkpoint_every: Annotated[int, Range(1)] = 1000
    """Steps between checkpoints; the last step always has one."""
    keep: Annotated[int, Range(1)] = 2
    """Checkpoints that are kept, the newest ones."""
    log_every: Annotated[int, Range(1)] = 10
    """Steps between lines of the logs; the first and the last step always have one."""
    evaluate_every: Annotated[int, Range(0)] = 0
    """Steps between evaluations of the task; 0: only after the last step."""
    evaluate_at: tuple[int, ...] = ()
    """Evaluate after these numbers of steps as well; 0 is before the first."""
