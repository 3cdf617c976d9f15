"""Classifier-free guidance (Ho and Salimans, 2022): away from what an empty prompt gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.models.diffusion.iddpm import Predict

_FIRST_THREE = 3


@dataclass(frozen=True, kw_only=True)
class Guidance(Checked):
    """How strongly a prompt is followed."""

    scale: Annotated[float, Range(0.0)] = 7.0
    """1 is the prediction for the prompt itself; OpenSora generates with 7."""
    channels: Literal["first_three", "all"] = "first_three"
    """Channels of the noise that are guided. OpenSora 1.0 guides three of the four channels of its latents, as if they were RGB."""
    null_mask: Literal["prompt", "all"] = "prompt"
    """Tokens of the empty prompt that count: as many as the prompt has (OpenSora 1.0), or all."""


def mix_guidance(prediction: Tensor, guidance: Guidance) -> Tensor:
    """Predictions for prompts and, in the second half of the batch, for empty prompts (2 batch, 2 * channels, …) → guided, of the same shape.

    Both halves get the guided noise; what is not guided, such as the variance, stays that of each half.
    """
    if len(prediction) % 2 or prediction.shape[1] % 2:
        raise InputError(f"prediction of shape {tuple(prediction.shape)}: must hold as many empty prompts as prompts, and noise and variance")
    num_guided = prediction.shape[1] // 2
    if guidance.channels == "first_three":
        num_guided = min(num_guided, _FIRST_THREE)
    prompted, empty = prediction[:, :num_guided].chunk(2)
    noise = empty + guidance.scale * (prompted - empty)
    return torch.cat([torch.cat([noise, noise]), prediction[:, num_guided:]], dim=1)


def guided(predict: Predict, guidance: Guidance) -> Predict:
    """A prediction with guidance; `predict` takes twice the batch and has the empty prompts in the second half."""

    def guided_prediction(noisy: Tensor, timesteps: Tensor) -> Tensor:
        both = predict(torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps]))
        return mix_guidance(both, guidance)[: len(noisy)]

    return guided_prediction
