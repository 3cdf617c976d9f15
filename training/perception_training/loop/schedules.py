"""Learning rate and weight decay as pure functions of the step: nothing to store, nothing to restore."""

from __future__ import annotations

import math

from perception_training.loop.config import OptimiserConfig, ScheduleConfig


def learning_rate_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Factor on the learning rate in step `step` (0, 1, ...) of `steps`.

    After the warm-up of w steps the schedule runs over the other `steps` - w; all but one_cycle would reach `final_factor` in the step after the
    last one, as torch's CosineAnnealingLR(T_max=steps) does. one_cycle is torch's OneCycleLR (anneal_strategy "cos", total_steps=steps).
    """
    if config.kind == "one_cycle":
        return _one_cycle(config, step, steps)
    if step < config.warm_up_steps:
        return config.warm_up_factor + (1 - config.warm_up_factor) * step / config.warm_up_steps
    progress = min(1.0, (step - config.warm_up_steps) / max(1, steps - config.warm_up_steps))
    falls = {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "quarter_cosine": math.cos(math.pi / 2 * progress),
    }
    return config.final_factor + (1 - config.final_factor) * falls[config.kind]


def _one_cycle(config: ScheduleConfig, step: int, steps: int) -> float:
    top = config.rise_share * steps - 1
    if step <= top or steps == 1:
        return _cosine_between(config.first_factor, 1.0, step / top if top > 0 else 1.0)
    return _cosine_between(1.0, config.final_factor, min(1.0, (step - top) / (steps - 1 - top)))


def _cosine_between(first: float, last: float, progress: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * progress))


def weight_decay_factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """Factor on every weight decay in step `step` of `steps`: 1, or on the way along a cosine from 1 to final_weight_decay / weight_decay."""
    if config.final_weight_decay < 0 or config.weight_decay == 0:
        return 1.0
    return _cosine_between(1.0, config.final_weight_decay / config.weight_decay, min(1.0, step / max(1, steps)))
