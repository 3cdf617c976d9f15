"""How much noise each diffusion step adds, and what follows from it in closed form."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from perception.core.errors import ConfigError

_FIRST_BETA, _LAST_BETA = 1e-4, 0.02
_STEPS_OF_THOSE = 1000


@dataclass(frozen=True)
class NoiseSchedule:
    """Constants of every step, float64 (steps,), by their names in the papers. Step 0 has the least noise.

    timesteps: int64, the number of each step in the schedule that the network was trained with · alphas_cumprod: share of the signal's variance that
    is left · posterior_…: the distribution of the step before, given the noisy sample and the clean one: its variance (its log with the first value
    replaced by the second, as the first variance is 0) and the weights of the clean and the noisy sample in its mean.
    """

    timesteps: Tensor
    betas: Tensor
    alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor

    def __len__(self) -> int:
        return len(self.betas)

    @classmethod
    def from_betas(cls, betas: Tensor, timesteps: Tensor | None = None) -> NoiseSchedule:
        """betas (steps,), variances of the noise that each step adds; at least two steps."""
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas <= 1)).all()):
            raise ConfigError("betas: must be at least two variances in (0, 1]")
        betas = betas.double()
        alphas = 1 - betas
        kept = alphas.cumprod(0)
        kept_before = torch.cat([kept.new_ones(1), kept[:-1]])
        variance = betas * (1 - kept_before) / (1 - kept)
        return cls(
            timesteps=torch.arange(len(betas)) if timesteps is None else timesteps,
            betas=betas,
            alphas_cumprod=kept,
            posterior_variance=variance,
            posterior_log_variance_clipped=torch.cat([variance[1:2], variance[1:]]).log(),
            posterior_mean_coef1=betas * kept_before.sqrt() / (1 - kept),
            posterior_mean_coef2=(1 - kept_before) * alphas.sqrt() / (1 - kept),
        )

    def respaced(self, num_steps: int) -> NoiseSchedule:
        """Fewer steps, evenly spread from the first to the last, between which as much noise is added as in all the steps that they replace."""
        if not 2 <= num_steps <= len(self):
            raise ConfigError(f"num_steps = {num_steps}: must lie in [2, {len(self)}], the steps of training")
        stride = (len(self) - 1) / (num_steps - 1)
        chosen = torch.tensor([round(stride * index) for index in range(num_steps)], device=self.betas.device)
        kept = self.alphas_cumprod[chosen]
        betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
        return NoiseSchedule.from_betas(betas, self.timesteps[chosen])

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same constants on another device."""
        return NoiseSchedule(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def linear_schedule(num_steps: int = 1000) -> NoiseSchedule:
    """Variances that rise evenly, from 1e-4 to 0.02 in 1000 steps; with fewer steps larger, so that the end is as noisy."""
    if num_steps < 2:
        raise ConfigError(f"num_steps = {num_steps}: must be at least 2")
    scale = _STEPS_OF_THOSE / num_steps
    if scale * _LAST_BETA > 1:
        raise ConfigError(f"num_steps = {num_steps}: must be at least {int(_STEPS_OF_THOSE * _LAST_BETA)}, as a variance would exceed 1")
    return NoiseSchedule.from_betas(torch.linspace(scale * _FIRST_BETA, scale * _LAST_BETA, num_steps, dtype=torch.float64))
