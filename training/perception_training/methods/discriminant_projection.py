"""Linear discriminant projection: a projection of descriptors computed in closed form from pairs that belong together.

Directions in which descriptors of the same place differ between views count less, and of what is left those are kept in which places differ most
(Cai, Mikolajczyk and Matas, "Learning Linear Discriminant Projections for Dimensionality Reduction of Image Descriptors", TPAMI 2011). Second moments
of many places are all that is taken from the views, so that rendered ones do nearly as well as real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(Checked):
    """How the projection is computed."""

    num_batches: Annotated[int, Range(1, 100_000)] = 100
    """Batches of pairs that are looked at before the first step."""
    level_weights: Annotated[tuple[float, ...], Range(0.0, 10.0)] = (0.5, 1.0, 0.6, 0.3)
    """How much the layouts of each size count, finest first."""
    least_difference: Annotated[float, Range(1e-6, 10.0)] = 0.01
    """Added to the variances of the differences between views, where their mean is 1: no direction is trusted without limit."""


@dataclass(frozen=True, eq=False)
class Projection:
    """What to subtract from a descriptor, and the matrix that is applied then."""

    matrix: Float[Tensor, "dim entry"]
    mean: Float[Tensor, " entry"]


def discriminant_projection(first: Float[Tensor, "pair entry"], second: Float[Tensor, "pair entry"], dim: int, least_difference: float) -> Projection:
    """The projection to `dim` numbers from descriptors of the same places in two views, in float64; results are 1 long in the root mean square.

    Raises InputError for fewer pairs than entries, which say nothing of some directions.
    """
    num, entries = first.shape
    if num < entries:
        raise InputError(f"discriminant projection: {num} pairs of descriptors of {entries} numbers; must be at least {entries}")
    first, second = first.double(), second.double()
    everything = torch.cat([first, second])
    mean = everything.mean(0)
    spread = (everything - mean).T @ (everything - mean) / len(everything)
    difference = (first - second).T @ (first - second) / (2 * num)
    difference = difference / difference.diagonal().mean() + least_difference * torch.eye(entries, dtype=difference.dtype)
    values, vectors = torch.linalg.eigh(difference)
    evened = (vectors * values.rsqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(evened @ spread @ evened)
    matrix = vectors[:, -dim:].flip(1).T @ evened
    return Projection(matrix / values[-dim:].sum().sqrt(), mean)
