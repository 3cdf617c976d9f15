"""Gradient layouts of nano at places that two views share: what its projection is computed from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from perception.core.types import Grid
from perception.models.nano.gradient_layouts import GradientLayouts
from perception.ops.sampling import sample_map
from perception_training.data.collation import Batch
from perception_training.methods.dense_descriptors import DRAWN_FOR_EACH, DenseDescriptorsConfig
from perception_training.methods.view_correspondences import draw_correspondences

_MULTIPLE_PX = 32


@torch.no_grad()
def layouts_of_pairs(
    layouts: GradientLayouts, batches: Iterable[Batch], grid: Grid, config: DenseDescriptorsConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "pair entry"], Float[Tensor, "pair entry"]]:
    """For up to `num_queries` pixels of the first view of every pair, drawn by `generator`, and their counterparts: unit layouts of all levels, in a
    row."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for batch in batches:
        matches = draw_correspondences(batch, 0, 1, DRAWN_FOR_EACH * config.num_queries, config.max_relative_depth_error, generator)
        maps = _maps(layouts, batch.images.flatten(0, 1)).unflatten(0, (len(batch), 2))
        for row in range(len(batch)):
            chosen = matches.valid[row].nonzero()[: config.num_queries, 0]
            for view, pixels in enumerate((matches.query_px, matches.item_px)):
                found[view].append(sample_map(maps[row, view], pixels[row, chosen], grid, normalize=False))
    return torch.cat(found[0]).double(), torch.cat(found[1]).double()


def _maps(layouts: GradientLayouts, images: Tensor) -> Tensor:
    """(n, 3, height, width) uint8 → (n, levels * layout, rows, cols) at the finest level's cells."""
    height, width = images.shape[-2:]
    pixels = functional.pad(images.float() / 255, (0, -width % _MULTIPLE_PX, 0, -height % _MULTIPLE_PX), mode="replicate")
    _, levels = layouts(pixels)
    size = levels[0][0].shape[-2:]
    return torch.cat([functional.interpolate(level * scale, size=size, mode="bilinear") for level, scale in levels], dim=1)
