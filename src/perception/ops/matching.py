"""Exact nearest neighbours between two sets of descriptors by cosine similarity, in both directions from one product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import InputError

_TILE_QUERIES = 2048
_TILE_REFERENCES = 8192


@dataclass(frozen=True, kw_only=True)
class MatcherConfig(Checked):
    """Nearest-neighbour matching of descriptors by cosine similarity."""

    mutual: bool = True
    """Keep a match only if each is the other's nearest neighbour."""
    min_score: Annotated[float, Range(-1.0, 1.0, "cosine")] = 0.2
    """Drop matches below this similarity."""
    max_ratio: Annotated[float, Range(0.0, 1.0)] = 1.0
    """Keep a match only if its distance is below this share of the distance to the second nearest reference (Lowe, 2004); 1 switches the test off."""


@dataclass(frozen=True, eq=False)
class Matches:
    """query_index (k,) int64, ascending · reference_index (k,) int64 · score (k,) float32, cosine similarity."""

    query_index: NDArray[np.int64]
    reference_index: NDArray[np.int64]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query_index)


def match_descriptors(query: Tensor | NDArray, reference: Tensor | NDArray, config: MatcherConfig) -> Matches:
    """For each descriptor of `query` (n, dim) the most similar one of `reference` (m, dim), filtered as `config` says.

    Both must have unit length. The reference may be a memory-mapped float16 array: it is read and converted tile by tile. The result is that of
    float32 arithmetic; of exactly equal candidates the lowest index wins. Memory does not grow with n x m.
    """
    query, reference = as_descriptors(query, "query"), as_descriptors(reference, "reference")
    if query.shape[1] != reference.shape[1]:
        raise InputError(f"query descriptors have {query.shape[1]} dimensions, reference descriptors {reference.shape[1]}: must be equal")
    if not len(query) or not len(reference):
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    forward = _Best(len(query), query.device, with_second=config.max_ratio < 1)
    backward = _Best(len(reference), query.device, with_second=False)
    for first in range(0, len(reference), _TILE_REFERENCES):
        tile = reference[first : first + _TILE_REFERENCES].to(query.device, torch.float32)
        for start in range(0, len(query), _TILE_QUERIES):
            score = query[start : start + _TILE_QUERIES].float() @ tile.T
            forward.update(score, start, first)
            if config.mutual:
                backward.update(score.T, first, start)
    return _filtered(forward, backward, config)


def as_descriptors(descriptors: Tensor | NDArray, name: str) -> Tensor:
    """The same memory as a tensor (n, dim); raises InputError for another shape or an integer dtype. `name` is what the message calls it."""
    tensor = descriptors if isinstance(descriptors, Tensor) else torch.from_numpy(descriptors)
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise InputError(f"{name} descriptors have shape {tuple(tensor.shape)} and type {tensor.dtype}: must be (n, dim) floating point")
    return tensor


class _Best:
    """Running maximum of each row over the columns seen so far, with its column and on demand the second-best value."""

    def __init__(self, num: int, device: torch.device, with_second: bool) -> None:
        self.value = torch.full((num,), -torch.inf, device=device)
        self.index = torch.zeros(num, dtype=torch.int64, device=device)
        self.second = torch.full((num,), -torch.inf, device=device) if with_second else None

    def update(self, score: Tensor, first_row: int, first_column: int) -> None:
        rows = slice(first_row, first_row + len(score))
        value, index = score.max(dim=1)
        best = self.value[rows]
        if self.second is not None:
            runner_up = score.topk(2, dim=1).values[:, 1] if score.shape[1] > 1 else torch.full_like(value, -torch.inf)
            loser = torch.minimum(best, value)
            self.second[rows] = torch.maximum(self.second[rows], torch.maximum(runner_up, loser))
        better = value > best  # strict: an equal score keeps the lower index
        self.index[rows] = torch.where(better, index + first_column, self.index[rows])
        self.value[rows] = torch.where(better, value, best)


def _filtered(forward: _Best, backward: _Best, config: MatcherConfig) -> Matches:
    keep = forward.value >= config.min_score
    if config.mutual:
        keep &= backward.index[forward.index] == torch.arange(len(keep), device=keep.device)
    if forward.second is not None:
        # For unit vectors the squared distance is 2 - 2 cosine.
        nearest, next_nearest = (1 - forward.value).clamp(min=0), (1 - forward.second).clamp(min=0)
        keep &= nearest < config.max_ratio**2 * next_nearest
    rows = keep.nonzero()[:, 0]
    return Matches(rows.cpu().numpy(), forward.index[rows].cpu().numpy(), forward.value[rows].cpu().numpy())
