"""Exact nearest neighbours between two sets of descriptors by cosine similarity, in both directions from one product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.devices import multiplies_bfloat16
from perception.core.errors import InputError

_TILE_QUERIES = 2048
_TILE_REFERENCES = 8192
# The big product only says in which groups of neighbouring rows the maximum may lie: a maximum without its position is many times
# cheaper than argmax, above all down the columns. The few groups that are left are then compared in float32, row by row.
_GROUP = 8
_KEPT_GROUPS = {torch.float32: 2, torch.bfloat16: 8}
# By how much a product of unit vectors in this precision may be off: a group whose maximum lies further below the best cannot hold the winner.
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02}
_RESCORED_AT_ONCE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class MatcherConfig(Checked):
    """Nearest-neighbour matching of descriptors by cosine similarity."""

    mutual: bool = True
    """Keep a match only if each is the other's nearest neighbour."""
    min_score: Annotated[float, Range(-1.0, 1.0, "cosine")] = 0.2
    """Drop matches below this similarity."""
    max_ratio: Annotated[float, Range(0.0, 1.0)] = 1.0
    """Keep a match only if its distance is below this share of the distance to the second nearest reference (Lowe, 2004); 1 switches the test off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the search; what it finds is compared in float32 in any case. auto: bfloat16 on GPUs, float32 on processors, where comparing what
    bfloat16 cannot tell apart costs more than it saves (docs/benchmarks.md, matching)."""


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

    Both must have unit length. The reference may be a memory-mapped float16 array: it is read and converted tile by tile. Scores are float32,
    and of equal candidates the lowest index wins. With precision float32 the nearest neighbours are exact; with bfloat16 the best 8 groups of 8
    are compared exactly, so that only more than 8 near ties within its resolution can hide the best. Memory does not grow with n x m.
    """
    query, reference = as_descriptors(query, "query"), as_descriptors(reference, "reference")
    if query.shape[1] != reference.shape[1]:
        raise InputError(f"query descriptors have {query.shape[1]} dimensions, reference descriptors {reference.shape[1]}: must be equal")
    if not len(query) or not len(reference):
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    with torch.no_grad():
        dtype = _search_dtype(config, query.device)
        forward, backward = _search(query, reference, dtype, config.mutual)
        # The ratio test asks for the second-best score, which may lie in any of the groups.
        margin = _ROUNDING[dtype] if config.max_ratio == 1 else torch.inf
        score, index, second = _rescored(query, reference, forward.candidates(margin))
        keep = score >= config.min_score
        if config.max_ratio < 1:
            # For unit vectors the squared distance is 2 - 2 cosine.
            keep &= (1 - score).clamp(min=0) < config.max_ratio**2 * (1 - second).clamp(min=0)
        rows = keep.nonzero()[:, 0]
        if backward is not None:
            wanted, position = torch.unique(index[rows], return_inverse=True)
            _, nearest_query, _ = _rescored(
                reference[wanted.to(reference.device)].to(query.device), query, backward.candidates(_ROUNDING[dtype])[wanted]
            )
            rows = rows[nearest_query[position] == rows]
    return Matches(rows.cpu().numpy(), index[rows].cpu().numpy(), score[rows].cpu().numpy())


def as_descriptors(descriptors: Tensor | NDArray, name: str) -> Tensor:
    """The same memory as a tensor (n, dim); raises InputError for another shape or an integer dtype. `name` is what the message calls it."""
    tensor = descriptors if isinstance(descriptors, Tensor) else torch.from_numpy(descriptors)
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise InputError(f"{name} descriptors have shape {tuple(tensor.shape)} and type {tensor.dtype}: must be (n, dim) floating point")
    return tensor


def _search_dtype(config: MatcherConfig, device: torch.device) -> torch.dtype:
    if config.precision != "auto":
        return torch.float32 if config.precision == "float32" else torch.bfloat16
    return torch.bfloat16 if device.type == "cuda" and multiplies_bfloat16(device) else torch.float32


def _search(query: Tensor, reference: Tensor, dtype: torch.dtype, mutual: bool) -> tuple[_BestGroups, _BestGroups | None]:
    """The best groups of references for each query, and on demand the best groups of queries for each reference."""
    kept = _KEPT_GROUPS[dtype]
    forward = _BestGroups(len(query), kept, query.device)
    backward = _BestGroups(len(reference), kept, query.device) if mutual else None
    query = query.to(dtype)
    for first in range(0, len(reference), _TILE_REFERENCES):
        tile = reference[first : first + _TILE_REFERENCES].to(query.device, dtype).T.contiguous()
        for start in range(0, len(query), _TILE_QUERIES):
            score = query[start : start + _TILE_QUERIES] @ tile
            forward.update(_group_maxima(score, 1), start, first // _GROUP)
            if backward is not None:
                backward.update(_group_maxima(score, 0).T, first, start // _GROUP)
    return forward, backward


def _group_maxima(score: Tensor, axis: int) -> Tensor:
    """Maximum over each `_GROUP` neighbours along an axis; the last group may be smaller."""
    whole = score.shape[axis] // _GROUP
    maxima = [score.narrow(axis, 0, whole * _GROUP).unflatten(axis, (whole, _GROUP)).amax(axis + 1)] if whole else []
    if whole * _GROUP < score.shape[axis]:
        maxima.append(score.narrow(axis, whole * _GROUP, score.shape[axis] - whole * _GROUP).amax(axis, keepdim=True))
    return torch.cat(maxima, dim=axis) if len(maxima) > 1 else maxima[0]


class _BestGroups:
    """The groups with the highest maxima for each row, best first, equal ones in the order of their numbers."""

    def __init__(self, num: int, kept: int, device: torch.device) -> None:
        self._groups = torch.full((num, kept), -1, dtype=torch.int64, device=device)
        self._value = torch.full((num, kept), -torch.inf, device=device)

    def candidates(self, margin: float) -> Tensor:
        """Group numbers (num, kept), best first, -1 where there are fewer or where the maximum lies more than `margin` below the best."""
        return torch.where(self._value >= self._value[:, :1] - margin, self._groups, -1)

    def update(self, maxima: Tensor, first_row: int, first_group: int) -> None:
        """Take in maxima (rows, groups) of rows from `first_row` on, groups numbered from `first_group` on. Groups must come in ascending order."""
        rows = slice(first_row, first_row + len(maxima))
        numbers = torch.arange(first_group, first_group + maxima.shape[1], device=maxima.device).expand(len(maxima), -1)
        value = torch.cat([self._value[rows], maxima.float()], dim=1)
        group = torch.cat([self._groups[rows], numbers], dim=1)
        # Not topk: it does not say which of equal values it returns.
        for rank in range(self._groups.shape[1]):
            best, position = value.max(dim=1)
            self._value[rows, rank] = best
            self._groups[rows, rank] = torch.where(best == -torch.inf, -1, group.gather(1, position[:, None])[:, 0])
            value.scatter_(1, position[:, None], -torch.inf)


def _rescored(rows: Tensor, others: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best float32 score (n,) of each of `rows` (n, dim) over those of `others` in its `groups` (n, kept), its index and the second-best score."""
    one_group = (groups[:, 1:] < 0).all(dim=1)
    if groups.shape[1] > 1 and one_group.any():
        best, index, second = (
            rows.new_empty(len(rows), dtype=torch.float32),
            torch.empty_like(groups[:, 0]),
            rows.new_empty(len(rows), dtype=torch.float32),
        )
        for chosen, chosen_groups in ((one_group, groups[one_group, :1]), (~one_group, groups[~one_group])):
            if chosen.any():
                best[chosen], index[chosen], second[chosen] = _compared(rows[chosen], others, chosen_groups)
        return best, index, second
    return _compared(rows, others, groups)


def _compared(rows: Tensor, others: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`_rescored` with all rows taking as many groups, in portions that bound the memory."""
    best, index, second = [], [], []
    size = max(1, _RESCORED_AT_ONCE // (groups.shape[1] * _GROUP * rows.shape[1]))
    for part, part_groups in zip(rows.split(size), groups.split(size), strict=True):
        # Ascending, so that the first of equal scores has the lowest index.
        ordered = part_groups.sort(dim=1).values
        candidate = (ordered[:, :, None] * _GROUP + torch.arange(_GROUP, device=rows.device)).flatten(1)
        exists = (ordered >= 0).repeat_interleave(_GROUP, dim=1) & (candidate < len(others))
        candidate = candidate.clamp(0, len(others) - 1)
        found = others[candidate.flatten().to(others.device)].to(rows.device, torch.float32).view(*candidate.shape, others.shape[1])
        score = torch.where(exists, torch.bmm(found, part.float()[:, :, None])[:, :, 0], -torch.inf)
        value, position = score.max(dim=1)
        best.append(value)
        index.append(candidate.gather(1, position[:, None])[:, 0])
        second.append(score.scatter(1, position[:, None], -torch.inf).amax(dim=1))
    return torch.cat(best), torch.cat(index), torch.cat(second)
