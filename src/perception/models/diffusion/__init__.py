"""Improved denoising diffusion (Nichol and Dhariwal, 2021): noise schedules, training losses, and sampling with guidance.

A network is any function `predict(noisy, timesteps) -> prediction` with noisy (batch, channels, …), timesteps (batch,) and prediction
(batch, 2 * channels, …): the noise, and where the log variance lies between its smallest (-1) and its largest (1) value.
"""

from perception.models.diffusion.guidance import Guidance, guided, mix_guidance
from perception.models.diffusion.iddpm import DiffusionLosses, Predict, StepDistribution, add_noise, previous_step, training_losses
from perception.models.diffusion.sampling import sample
from perception.models.diffusion.schedule import NoiseSchedule, linear_schedule

__all__ = [
    "DiffusionLosses",
    "Guidance",
    "NoiseSchedule",
    "Predict",
    "StepDistribution",
    "add_noise",
    "guided",
    "linear_schedule",
    "mix_guidance",
    "previous_step",
    "sample",
    "training_losses",
]
