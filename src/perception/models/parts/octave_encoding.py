"""Coordinates as sines and cosines of frequencies that double from one to the next (NeRF, Mildenhall et al., ECCV 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def encode_by_octaves(x: Tensor, first_degree: int, num_degrees: int) -> Tensor:
    """x (…, n) → (…, n (1 + 2 num_degrees)): x, then the sines of x 2^d, frequency by frequency, then the cosines likewise.

    d runs from first_degree on, in radians.
    """
    scales = 2.0 ** torch.arange(first_degree, first_degree + num_degrees, device=x.device, dtype=x.dtype)
    scaled = (x[..., None, :] * scales[:, None]).flatten(-2)
    # As the sine of a shifted angle, since checkpoints were trained so: for large angles the rounding differs from a cosine's.
    return torch.cat([x, scaled.sin(), (scaled + 0.5 * math.pi).sin()], dim=-1)
