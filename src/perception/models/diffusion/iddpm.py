"""One step of diffusion, forwards and backwards, and what a network is trained with.

Ho et al., "Denoising diffusion probabilistic models", 2020 (numbers of equations below); the learned variance and the bound that trains it: Nichol
and Dhariwal, "Improved denoising diffusion probabilistic models", 2021. Everything is float32 with schedules in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from perception.core.errors import InputError
from perception.models.diffusion.schedule import NoiseSchedule

Predict = Callable[[Tensor, Tensor], Tensor]
"""predict(noisy (batch, channels, …), timesteps (batch,)) → (batch, 2 * channels, …)"""

_HALF_LEVEL = 1 / 255
"""Half the distance between two grey levels in [-1, 1]."""
_EDGE = 0.999
_SMALLEST_PROBABILITY = 1e-12


class StepDistribution(NamedTuple):
    """The sample one step before, as a normal distribution, and the clean sample that it was computed from; all of the shape of the sample."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    clean: Tensor


class DiffusionLosses(NamedTuple):
    """total = squared_error + variational, each (batch,): error of the noise, and bits per number that trains the variance alone."""

    total: Tensor
    squared_error: Tensor
    variational: Tensor


def _at(values: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """values (steps,) at index (batch,), to multiply with `like` (batch, …)."""
    return values.to(index.device)[index].float().view(-1, *[1] * (like.ndim - 1))


def add_noise(schedule: NoiseSchedule, clean: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """clean and noise (batch, …), index (batch,) of steps → what is left of the clean sample after these steps, and their noise (eq. 4)."""
    kept = schedule.alphas_cumprod
    return _at(kept.sqrt(), index, clean) * clean + _at((1 - kept).sqrt(), index, clean) * noise


def previous_step(
    schedule: NoiseSchedule, prediction: Tensor, noisy: Tensor, index: Tensor, clean_range: tuple[float, float] | None = None
) -> StepDistribution:
    """The distribution of the sample before step `index` (batch,), given the network's prediction (batch, 2 * channels, …) at `noisy`.

    clean_range: bounds for the clean sample, for images in [-1, 1]; latents have none.
    """
    noise, position = _split(prediction, noisy)
    smallest = _at(schedule.posterior_log_variance_clipped, index, noisy)
    largest = _at(schedule.betas.log(), index, noisy)
    share = (position + 1) / 2
    log_variance = share * largest + (1 - share) * smallest
    kept = schedule.alphas_cumprod
    clean = _at(kept.rsqrt(), index, noisy) * noisy - _at((1 / kept - 1).sqrt(), index, noisy) * noise
    if clean_range is not None:
        clean = clean.clamp(*clean_range)
    return StepDistribution(_posterior_mean(schedule, clean, noisy, index), log_variance.exp(), log_variance, clean)


def training_losses(schedule: NoiseSchedule, predict: Predict, clean: Tensor, index: Tensor, noise: Tensor) -> DiffusionLosses:
    """Losses of each sample; clean and noise (batch, channels, …), index (batch,) of steps. The variational loss does not reach the noise."""
    noisy = add_noise(schedule, clean, index, noise)
    prediction = predict(noisy, schedule.timesteps.to(index.device)[index])
    predicted_noise, position = _split(prediction, noisy)
    squared_error = (noise - predicted_noise).square().flatten(1).mean(1)
    frozen = torch.cat([predicted_noise.detach(), position], dim=1)
    variational = _variational(schedule, previous_step(schedule, frozen, noisy, index), clean, noisy, index)
    return DiffusionLosses(squared_error + variational, squared_error, variational)


def _split(prediction: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and position of the log variance in its range, each of the shape of `noisy`, from a prediction (batch, 2 * channels, …)."""
    wanted = (len(noisy), 2 * noisy.shape[1], *noisy.shape[2:])
    if tuple(prediction.shape) != wanted:
        raise InputError(f"prediction of shape {tuple(prediction.shape)}: must be {wanted}, noise and variance of every channel")
    noise, position = prediction.float().chunk(2, dim=1)
    return noise, position


def _posterior_mean(schedule: NoiseSchedule, clean: Tensor, noisy: Tensor, index: Tensor) -> Tensor:
    """Mean of the sample one step before, where both ends are known (eq. 7)."""
    return _at(schedule.posterior_mean_coef1, index, noisy) * clean + _at(schedule.posterior_mean_coef2, index, noisy) * noisy


def _variational(schedule: NoiseSchedule, step: StepDistribution, clean: Tensor, noisy: Tensor, index: Tensor) -> Tensor:
    """One term of the variational bound (eq. 5) in bits per number: (batch,). The last step must give the clean sample itself."""
    true_mean = _posterior_mean(schedule, clean, noisy, index)
    true_log_variance = _at(schedule.posterior_log_variance_clipped, index, noisy)
    divergence = _normal_divergence(true_mean, true_log_variance, step.mean, step.log_variance)
    surprise = -_grey_level_log_likelihood(clean, step.mean, 0.5 * step.log_variance)
    nats = torch.where(index == 0, surprise.flatten(1).mean(1), divergence.flatten(1).mean(1))
    return nats / math.log(2)


def _normal_divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the other normal distribution from the first, number by number, in nats; all of one shape."""
    ratio = (log_variance - other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance - 1 + ratio + (mean - other_mean).square() * (-other_log_variance).exp())


def _grey_level_log_likelihood(clean: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log of the probability that a normal distribution gives the grey level of `clean`, one of 256 in [-1, 1]; the outermost reach to infinity.

    Latents are no grey levels; the released training treats them so all the same (eq. 13).
    """
    precision = (-log_deviation).exp()
    above = _normal_cdf(precision * (clean - mean + _HALF_LEVEL))
    below = _normal_cdf(precision * (clean - mean - _HALF_LEVEL))
    probability = torch.where(clean < -_EDGE, above, torch.where(clean > _EDGE, 1 - below, above - below))
    return probability.clamp(min=_SMALLEST_PROBABILITY).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The cumulative normal distribution by the tanh approximation, which the released code trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))
