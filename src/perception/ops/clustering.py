"""k-means over descriptors: the visual words by which object templates are pre-selected."""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.errors import InputError
from perception.ops.matching import as_descriptors

_TILE = 16_384
# The starting centres are drawn from a sample of this size: seeding costs one pass for each centre.
_SEEDING_SAMPLE = 32_768


def kmeans(descriptors: Tensor | NDArray, num_clusters: int, num_iterations: int = 20, seed: int = 0) -> Tensor:
    """Centres (num_clusters, dim) float32 of Lloyd's algorithm in Euclidean distance, started by k-means++ (Arthur and Vassilvitskii, 2007).

    descriptors (n, dim) of any floating dtype, also memory-mapped. A cluster that runs empty starts again at the descriptor that is farthest
    from its centre. Stops early when no centre moves. Equal input and seed give equal centres. Raises InputError when there are fewer
    descriptors than clusters.
    """
    descriptors = as_descriptors(descriptors, "descriptors")
    if not 1 <= num_clusters <= len(descriptors):
        raise InputError(f"num_clusters = {num_clusters}: must lie between 1 and the number of descriptors, {len(descriptors)}")
    generator = torch.Generator().manual_seed(seed)
    centres = _starting_centres(descriptors, num_clusters, generator)
    for _ in range(num_iterations):
        moved = _updated(descriptors, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def assign(descriptors: Tensor | NDArray, centres: Tensor) -> Tensor:
    """Index (n,) int64 of the nearest centre (k, dim) of each descriptor (n, dim); of equally near ones the lowest."""
    tiles = as_descriptors(descriptors, "descriptors").split(_TILE)
    return torch.cat([_nearest(tile, centres)[0] for tile in tiles])


def _nearest(tile: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre and squared distance, each (n,)."""
    tile = tile.to(centres.device, centres.dtype)
    # |d - c|^2 = |d|^2 - 2 d c + |c|^2, and |d|^2 does not change the order.
    relative = torch.addmm((centres**2).sum(dim=1), tile, centres.T, alpha=-2.0)
    value, index = relative.min(dim=1)
    return index, (value + (tile**2).sum(dim=1)).clamp(min=0)


def _updated(descriptors: Tensor, centres: Tensor) -> Tensor:
    """Means of the descriptors that are nearest to each centre."""
    sums, counts = torch.zeros_like(centres), torch.zeros(len(centres), device=centres.device)
    distances = []
    for tile in descriptors.split(_TILE):
        index, distance = _nearest(tile, centres)
        sums.index_add_(0, index, tile.to(centres.device, centres.dtype))
        counts += torch.bincount(index, minlength=len(centres))
        distances.append(distance)
    empty = (counts == 0).nonzero()[:, 0]
    moved = sums / counts.clamp(min=1)[:, None]
    if len(empty):
        farthest = torch.cat(distances).topk(len(empty)).indices
        moved[empty] = descriptors[farthest.to(descriptors.device)].to(centres.device, centres.dtype)
    return moved


def _starting_centres(descriptors: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is drawn with a probability that grows with the squared distance to the nearest centre so far."""
    size = max(_SEEDING_SAMPLE, num_clusters)
    sample = descriptors
    if len(descriptors) > size:
        sample = descriptors[torch.randperm(len(descriptors), generator=generator)[:size].sort().values]
    sample = sample.float()
    chosen = [int(torch.randint(len(sample), (1,), generator=generator))]
    distance = ((sample - sample[chosen[0]]) ** 2).sum(dim=1)
    while len(chosen) < num_clusters:
        total = distance.double().cumsum(0)
        if total[-1] > 0:
            drawn = torch.rand(1, generator=generator, dtype=torch.float64).to(total.device) * total[-1]
            index = min(int(torch.searchsorted(total, drawn, right=True)), len(sample) - 1)
        else:  # fewer distinct descriptors than clusters: any will do
            index = int(torch.randint(len(sample), (1,), generator=generator))
        chosen.append(index)
        distance = torch.minimum(distance, ((sample - sample[index]) ** 2).sum(dim=1))
    return sample[chosen].clone()
