"""From noise to a sample, step by step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perception.core.errors import InputError
from perception.models.diffusion.iddpm import Predict, StepDistribution, previous_step
from perception.models.diffusion.schedule import NoiseSchedule

OnStep = Callable[[int, int, StepDistribution], None]
"""on_step(steps done, steps in all, the step's distribution): for progress, previews, or by raising to stop."""


@torch.no_grad()
def sample(
    schedule: NoiseSchedule,
    predict: Predict,
    noise: Tensor,
    *,
    generator: torch.Generator | None = None,
    clean_range: tuple[float, float] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """noise (batch, channels, …), as the generation begins with it → samples of the same shape.

    generator: of the noise between steps; its numbers are drawn on its own device, so that a seed of the CPU gives the same sample everywhere.
    """
    if not noise.is_floating_point() or noise.ndim < 3:
        raise InputError(f"noise of shape {tuple(noise.shape)} and type {noise.dtype}: must be floating point (batch, channels, …)")
    device = noise.device if generator is None else generator.device
    schedule = schedule.to(noise.device)
    current = noise.float()
    for step in reversed(range(len(schedule))):
        index = torch.full((len(noise),), step, device=noise.device)
        before = previous_step(schedule, predict(current, schedule.timesteps[index]), current, index, clean_range)
        current = before.mean
        if step:
            fresh = torch.randn(noise.shape, generator=generator, device=device).to(noise.device)
            current = current + (0.5 * before.log_variance).exp() * fresh
        if on_step is not None:
            on_step(len(schedule) - step, len(schedule), before)
    return current
