"""The k nearest of many points, exactly, without a matrix of all distances."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from perception.core.errors import InputError

_MAX_DISTANCES = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Distances that are in memory at once, by device: what stays in the cache, and what fills a GPU."""


def nearest_neighbours(queries: Tensor, references: Tensor, k: int, max_distances: int | None = None) -> Tensor:
    """Indices (…, n, k) int64 of the k references nearest to each query, nearest first.

    queries (…, n, dim) and references (…, m, dim) of equal leading dimensions, m ≥ k; distances are Euclidean, from differences of coordinates in
    float32 (or the dtype itself where that is wider). Equal distances: any order. References with NaN come last, and may be given twice where fewer
    than k have none; what a query with NaN gets is not defined, but valid. max_distances bounds the memory (default by device): about that many
    numbers a few times over.

    References are cut into groups of about sqrt(m / k) successive ones. The k groups whose nearest member is nearest contain the k nearest
    references, because each of these lies in a group that is at least as near; so only k groups are looked at member by member.
    Raises InputError when shapes do not fit.
    """
    if queries.ndim < 2 or queries.shape[:-2] != references.shape[:-2] or queries.shape[-1] != references.shape[-1]:
        raise InputError(f"queries {tuple(queries.shape)} and references {tuple(references.shape)}: must be (…, n, dim) and (…, m, dim)")
    num_references = references.shape[-2]
    if not 1 <= k <= num_references:
        raise InputError(f"k = {k}: must lie in [1, {num_references}], the number of references")
    *batch, num_queries, dim = queries.shape
    exact = torch.promote_types(queries.dtype, torch.float32)
    with torch.no_grad():
        points = queries.detach().to(exact).reshape(-1, num_queries, dim).permute(2, 0, 1).contiguous()
        groups = _groups(references.detach().to(exact).reshape(-1, num_references, dim), k)
        limit = max_distances or _MAX_DISTANCES.get(queries.device.type, _MAX_DISTANCES["cuda"])
        found = torch.empty(points.shape[1], num_queries, k, dtype=torch.int64, device=queries.device)
        for item, block in _blocks(points.shape[1], num_queries, max(num_references, k * groups.shape[2] * dim), limit):
            found[item, block] = _nearest_in_groups(points[:, item, block], groups[:, item], k, limit)
    return found.clamp_(max=num_references - 1).reshape(*batch, num_queries, k)


def _blocks(num_items: int, num_queries: int, cost: int, limit: int) -> list[tuple[slice, slice]]:
    """Blocks of (items, queries) of at most `limit / cost` queries each, or one query."""
    queries = max(1, min(num_queries, limit // cost))
    items = max(1, limit // (cost * max(1, num_queries))) if queries == num_queries else 1
    return [(slice(i, i + items), slice(q, q + queries)) for i in range(0, num_items, items) for q in range(0, num_queries, queries)]


def _groups(references: Tensor, k: int) -> Tensor:
    """references (batch, m, dim) → (dim, batch, size, groups), the last group filled up with points at infinity; NaN becomes infinity too.

    Member by member, so that the least of each group is found by comparing whole rows of numbers that lie side by side.
    """
    num_references = references.shape[1]
    size = max(1, math.isqrt(num_references // k))
    padding = -num_references % size
    padded = functional.pad(references, (0, 0, 0, padding), value=math.inf).nan_to_num(math.inf, math.inf, -math.inf)
    return padded.unflatten(1, (-1, size)).permute(3, 0, 2, 1).contiguous()


def _squared_distances(queries: Tensor, references: Tensor) -> Tensor:
    """queries and references of broadcastable shapes (dim, …) → (…): axis by axis, so that differences of all axes never exist at once."""
    total = (queries[0] - references[0]).square_()
    for axis in range(1, queries.shape[0]):
        total.add_((queries[axis] - references[axis]).square_())
    return total


def _nearest_in_groups(queries: Tensor, groups: Tensor, k: int, limit: int) -> Tensor:
    """queries (dim, batch, n), groups (dim, batch, size, groups) → (batch, n, k), counted through all groups."""
    num_batch, num_queries = queries.shape[1:]
    size, num_groups = groups.shape[2:]
    at_once = max(1, limit // (num_batch * num_queries * size))
    points = queries[..., None, None]
    nearest = [_squared_distances(points, part[:, :, None]).amin(dim=-2) for part in groups.split(at_once, dim=-1)]
    chosen = torch.cat(nearest, dim=-1).topk(min(k, num_groups), dim=-1, largest=False, sorted=False).indices
    members = groups.flatten(2)[:, :, None].expand(-1, -1, num_queries, -1)
    candidates = (chosen[..., None, :] + num_groups * torch.arange(size, device=queries.device)[:, None]).flatten(2)
    near = torch.stack([axis.gather(-1, candidates) for axis in members])
    best = candidates.gather(-1, _squared_distances(queries[..., None], near).topk(k, dim=-1, largest=False).indices)
    return best % num_groups * size + best // num_groups
