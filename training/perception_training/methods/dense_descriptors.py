"""Pretraining of dense descriptors: each pixel has to find its counterpart among the cells of another view of the same scene.

For every pair of views and both directions, descriptors are read at pixels whose counterparts depth and poses give; the counterpart's descriptor must
be more alike than those of all cells of a coarser grid over the other view (InfoNCE). That grid begins at a random cell, so that all cells take part
in the long run at a fraction of the cost, and leaves out what lies near the counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from perception.core.config import Checked, Range
from perception.core.types import Grid
from perception.models.network_extractor import DenseNetwork
from perception.ops.sampling import sample_map
from perception_training.data.collation import Batch
from perception_training.losses.contrastive import info_nce_loss
from perception_training.methods.view_correspondences import draw_correspondences

DRAWN_FOR_EACH = 3
"""Pixels drawn for each query that is wanted, as some have no counterpart."""


@dataclass(frozen=True, kw_only=True)
class DenseDescriptorsConfig(Checked):
    """What is compared with what."""

    num_queries: Annotated[int, Range(1, 100_000)] = 400
    """Pixels of each view that look for their counterparts; fewer where the views share less."""
    temperature: Annotated[float, Range(1e-4, 10.0)] = 0.05
    """Of the softmax over cosines."""
    excluded_px: Annotated[float, Range(0.0, 1000.0, "px")] = 6.0
    """Cells nearer to the counterpart than this are neither right nor wrong."""
    item_step: Annotated[int, Range(1, 64)] = 2
    """Every so many cells of the other view, along both axes, are compared with."""
    max_relative_depth_error: Annotated[float, Range(0.0, 1.0)] = 0.02
    """A counterpart is visible where the depth of the other view agrees to this share."""


class DenseDescriptors(nn.Module):
    """A dense network on batches of uint8 images of any size: padded by repeating the border, cells cut to those inside the image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def grid(self) -> Grid:
        """Where the cells lie in the image."""
        network: DenseNetwork = self.network  # type: ignore[assignment]
        return Grid((network.offset_px,) * 2, (float(network.stride_px),) * 2)

    def forward(self, images: Tensor) -> Float[Tensor, "image dim rows cols"]:
        """images (n, 3, height, width) uint8 → unit descriptors of the cells whose centres lie inside the image."""
        network: DenseNetwork = self.network  # type: ignore[assignment]
        height, width = images.shape[-2:]
        bottom, right = -height % network.multiple_px, -width % network.multiple_px
        pixels = functional.pad(images.float() / 255, (0, right, 0, bottom), mode="replicate")
        found: Tensor = self.network(pixels)
        rows, cols = (int((side - 0.5 - network.offset_px) // network.stride_px) + 1 for side in (height, width))
        return functional.normalize(found[..., :rows, :cols].float(), dim=1)


def descriptor_loss(module: DenseDescriptors, batch: Batch, config: DenseDescriptorsConfig) -> Float[Tensor, ""]:
    """Mean InfoNCE over all queries of a batch of samples of two frames, in both directions; 0 with zero gradient when no views overlap."""
    num = len(batch)
    maps = module(batch.images.flatten(0, 1)).unflatten(0, (num, 2))
    total, count = maps.sum() * 0, 0
    for query, item in ((0, 1), (1, 0)):
        found = draw_correspondences(batch, query, item, DRAWN_FOR_EACH * config.num_queries, config.max_relative_depth_error)
        items, places = _coarse_grid(maps[:, item], module.grid, config.item_step)
        for row in range(num):
            chosen = found.valid[row].nonzero()[: config.num_queries, 0]
            query_px, item_px = found.query_px[row, chosen], found.item_px[row, chosen]
            queries, counterparts = sample_map(maps[row, query], query_px, module.grid), sample_map(maps[row, item], item_px, module.grid)
            found_loss = info_nce_loss(
                queries, counterparts, items[row], item_px, places, excluded_radius=config.excluded_px, temperature=config.temperature
            ).loss
            total, count = total + found_loss * len(chosen), count + len(chosen)
    return total / max(1, count)


def _coarse_grid(maps: Tensor, grid: Grid, step: int) -> tuple[Tensor, Tensor]:
    """Descriptors (b, n, dim) of every `step`-th cell from a random one on, and their pixels (n, 2)."""
    first_row, first_col = torch.randint(step, (2,)).tolist()
    kept = maps[..., first_row::step, first_col::step]
    rows = torch.arange(first_row, maps.shape[-2], step, device=maps.device) * grid.stride_px[1] + grid.offset_px[1]
    cols = torch.arange(first_col, maps.shape[-1], step, device=maps.device) * grid.stride_px[0] + grid.offset_px[0]
    y, x = torch.meshgrid(rows, cols, indexing="ij")
    return kept.flatten(2).mT, torch.stack([x.flatten(), y.flatten()], dim=1)


@torch.no_grad()
def matching_errors_px(
    module: DenseDescriptors, batch: Batch, num_points: int, max_relative_depth_error: float, generator: torch.Generator
) -> Float[Tensor, " point"]:
    """How far from the truth the nearest neighbours lie, for up to `num_points` pixels of the first view of each sample, looked for among all pixels
    of the second, descriptors interpolated there. Empty when no views overlap."""
    maps = module(batch.images.flatten(0, 1)).unflatten(0, (len(batch), 2))
    found = draw_correspondences(batch, 0, 1, DRAWN_FOR_EACH * num_points, max_relative_depth_error, generator)
    height, width = batch.images.shape[-2:]
    y, x = torch.meshgrid(*(torch.arange(side, device=maps.device, dtype=torch.float32) for side in (height, width)), indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()], dim=1)
    errors = []
    for row in range(len(batch)):
        chosen = found.valid[row].nonzero()[:num_points, 0]
        query = sample_map(maps[row, 0], found.query_px[row, chosen], module.grid)
        everywhere = sample_map(maps[row, 1], pixels, module.grid)
        best = pixels[(query.float() @ everywhere.float().T).argmax(1)]
        errors.append((best - found.item_px[row, chosen]).norm(dim=1))
    return torch.cat(errors)
