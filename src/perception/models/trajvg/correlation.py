"""What surrounds a point in each frame: its nearest neighbours in space, how like the query they look and where they lie from it.

Facts: xingy038/TrajVG trajvg/models/track_modules/knn_utils.py. Attribute names are the checkpoint's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.core.types import Grid
from perception.models.parts.blocks import Mlp, checkpointed
from perception.models.parts.octave_encoding import encode_by_octaves
from perception.models.trajvg.config import FIRST_DEGREE, NUM_DEGREES, TrackerConfig, encoded_dim
from perception.ops.nearest_neighbours import nearest_neighbours
from perception.ops.sampling import sample_map

NUMBERS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Numbers about the neighbours of one chunk of points, by device: what stays near the cache, and what fills a GPU."""

_SMALLEST_DEVIATION = 1e-6
_OFFSETS = 4  # x, y, z, and z again in units of its deviation in the map
_HIDDEN_RATIO = 4
_CELLS = Grid((0.0, 0.0), (1.0, 1.0))


class CloudLevel(NamedTuple):
    """One level of all frames (n = batch * frames): points (n, cells, 3), their features (n, cells, dim), deviation of their depths (n, 1, 1).

    rows, cols: the grid that the cells form, row by row.
    """

    points: Tensor
    features: Tensor
    depth_deviation: Tensor
    rows: int
    cols: int


def cloud_pyramid(points: Tensor, features: Tensor, num_levels: int) -> list[CloudLevel]:
    """points (n, 3, rows, cols), features (n, dim, rows, cols) → levels of half the size each: points are picked, features are averaged."""
    levels = []
    for index in range(num_levels):
        if index:
            points = functional.interpolate(points, scale_factor=0.5, mode="nearest-exact")
            features = functional.avg_pool2d(features, 2)
        cloud = points.flatten(2).transpose(1, 2).contiguous()
        deviation = cloud[..., 2:].std(dim=1, keepdim=True).clamp(min=_SMALLEST_DEVIATION)
        levels.append(CloudLevel(cloud, features.flatten(2).transpose(1, 2).contiguous(), deviation, *points.shape[-2:]))
    return levels


class NeighbourCorrelation(nn.Module):
    """Reads the neighbours of points on every level. Keys: in_norm, posenc_mlps, corr_mlps."""

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__()
        dim, self._num_neighbours = config.feature_dim, config.num_neighbours
        said = (1 + dim) * config.num_neighbours
        self.in_norm = nn.LayerNorm(dim)
        self.posenc_mlps = nn.ModuleList(Mlp(encoded_dim(_OFFSETS), dim, dim) for _ in range(config.num_levels))
        self.corr_mlps = nn.ModuleList(Mlp(said, _HIDDEN_RATIO * dim, dim) for _ in range(config.num_levels))

    def query_features(self, levels: list[CloudLevel], cells: Tensor, num_frames: int) -> list[Tensor]:
        """Unit vectors (batch, points, dim) for each level, from the first frames at cells (batch, points, 2) of level 0, as (x, y).

        Beyond the outermost cell centres the border's feature holds.
        """
        found = []
        for level, encoder in zip(levels, self.posenc_mlps, strict=True):
            first = level.features[::num_frames].transpose(1, 2).unflatten(2, (level.rows, level.cols))
            scale = cells.new_tensor([level.cols / levels[0].cols, level.rows / levels[0].rows])
            sampled = sample_map(first, cells * scale, _CELLS, normalize=False)
            here = encoder(_encode(cells.new_zeros(_OFFSETS)))  # what is said of neighbours that lie where the point does
            found.append(functional.normalize(self.in_norm(sampled) + here, dim=-1))
        return found

    def forward(self, levels: list[CloudLevel], queries: list[Tensor], coordinates: Tensor, checkpointing: bool = False) -> Tensor:
        """coordinates (batch, frames, points, 3) in the levels' units, queries (batch, points, dim) each → (batch, frames, points, levels * dim).

        Points are handled in chunks, so that the neighbours of all points are not in memory at once; checkpointing: nor for the backward pass.
        """
        num_frames, num_points = coordinates.shape[1:3]
        flat = coordinates.flatten(0, 1)
        here = [query.repeat_interleave(num_frames, dim=0) for query in queries]
        numbers = flat.shape[0] * self._num_neighbours * (encoded_dim(_OFFSETS) + 3 * here[0].shape[-1])
        chunk = max(1, NUMBERS_AT_ONCE.get(flat.device.type, NUMBERS_AT_ONCE["cuda"]) // numbers)
        neighbours = [nearest_neighbours(flat, level.points, self._num_neighbours) for level in levels]
        parts = []
        for start in range(0, num_points, chunk):
            at = slice(start, start + chunk)
            values = [
                checkpointed(self._read, index, level, query[:, at], flat[:, at], near[:, at], enabled=checkpointing)
                for index, (level, query, near) in enumerate(zip(levels, here, neighbours, strict=True))
            ]
            parts.append(torch.cat(values, dim=-1))
        return torch.cat(parts, dim=1).unflatten(0, coordinates.shape[:2])

    def _read(self, index: int, level: CloudLevel, query: Tensor, coordinates: Tensor, neighbours: Tensor) -> Tensor:
        """query (n, points, dim), coordinates (n, points, 3), neighbours (n, points, k) cells → (n, points, dim)"""
        num_cells, dim = level.features.shape[1:]
        first_cell = num_cells * torch.arange(neighbours.shape[0], device=neighbours.device)[:, None, None]
        points, features = (functional.embedding(neighbours + first_cell, table.flatten(0, 1)) for table in (level.points, level.features))
        offsets = points - coordinates[:, :, None]
        offsets = torch.cat([offsets, offsets[..., 2:] / level.depth_deviation[..., None]], dim=-1)
        features = functional.normalize(self.in_norm(features), dim=-1)
        likeness = (features * query[:, :, None]).sum(dim=-1, keepdim=True) / math.sqrt(dim)
        said = torch.cat([likeness, self.posenc_mlps[index](_encode(offsets))], dim=-1)
        return self.corr_mlps[index](said.flatten(2))


def _encode(x: Tensor) -> Tensor:
    return encode_by_octaves(x, FIRST_DEGREE, NUM_DEGREES)
