"""Tracks in space: points of the first frame, found again in the point map of every other frame by a few corrections of all tracks at once.

Facts: xingy038/TrajVG trajvg/models/track_modules/base_track_predictor.py. Attribute names are the checkpoint's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.core.errors import InputError
from perception.models.parts.attention import no_autocast
from perception.models.parts.octave_encoding import encode_by_octaves
from perception.models.trajvg.config import FIRST_DEGREE, NUM_DEGREES, TrackerConfig
from perception.models.trajvg.correlation import NeighbourCorrelation, cloud_pyramid
from perception.models.trajvg.update_transformer import UpdateTransformer

_DEVIATIONS = 3.0  # of a map's points from their mean that become 1
_SMALLEST_DEVIATION = 1e-6


class TrackEstimate(NamedTuple):
    """points (batch, frames, points, 3) in axes of each frame's camera, in the units of its point map · visibility (batch, frames, points): logits;
    the official use takes a point as seen where sigmoid(·) ≥ 0.2."""

    points: Tensor
    visibility: Tensor


class Tracker(nn.Module):
    """The part of TrajVG that tracks. Keys: query_ref_token, corr_module, updateformer, fmap_norm. It is float32 under autocast too."""

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, config.token_dim))
        self.corr_module = NeighbourCorrelation(config)
        self.updateformer = UpdateTransformer(config)
        self.fmap_norm = nn.LayerNorm(config.feature_dim)

    def check_size(self, rows: int, cols: int) -> None:
        """InputError where feature maps of this size are too small for the coarsest level to have enough neighbours."""
        halvings = self.config.num_levels - 1
        num_cells = (rows >> halvings) * (cols >> halvings)
        if num_cells < self.config.num_neighbours:
            stride = self.config.stride_px
            raise InputError(
                f"Tracker: frames of {cols * stride}x{rows * stride} px leave {num_cells} cells on the coarsest of {self.config.num_levels} levels; "
                f"needs {self.config.num_neighbours} or more, as many as neighbours"
            )

    def forward(
        self,
        features: Tensor,
        point_maps: Tensor,
        queries_px: Tensor,
        query_points: Tensor,
        num_iterations: int | None = None,
        checkpointing: bool = False,
    ) -> list[TrackEstimate]:
        """The estimates after each iteration.

        features (batch, frames, dim, rows, cols) · point_maps (batch, frames, 3, height, width) in axes of each frame's camera · queries_px
        (batch, points, 2) as (x, y) in the first frame, query_points (batch, points, 3) what they show there.
        Gradients do not flow from one iteration into the coordinates and visibilities of the one before.
        """
        rows, cols = features.shape[-2:]
        self.check_size(rows, cols)
        with no_autocast(features.device):
            normed = self.fmap_norm(features.float().movedim(2, -1)).movedim(-1, 2)
            cells = functional.interpolate(point_maps.float().flatten(0, 1), (rows, cols), mode="nearest-exact")
            deviation, mean = torch.std_mean(cells.flatten(2), dim=-1)
            half_range = _DEVIATIONS * deviation.clamp(min=_SMALLEST_DEVIATION)
            cells = (cells - mean[..., None, None]) / half_range[..., None, None]
            mean, half_range = (value.unflatten(0, features.shape[:2])[:, :, None] for value in (mean, half_range))
            levels = cloud_pyramid(cells, normed.flatten(0, 1), self.config.num_levels)
            queries = self.corr_module.query_features(levels, queries_px.float() / self.config.stride_px, features.shape[1])
            # Where nothing is known yet a point lies in the middle of the frame's points.
            coordinates = functional.pad(((query_points.float() - mean[:, 0]) / half_range[:, 0])[:, None], (0, 0, 0, 0, 0, features.shape[1] - 1))
            visibility = torch.zeros_like(coordinates[..., 0])
            estimates = []
            for _ in range(num_iterations or self.config.num_iterations):
                coordinates, visibility = coordinates.detach(), visibility.detach()
                correlations = self.corr_module(levels, queries, coordinates, checkpointing)
                tokens = self._tokens(coordinates, visibility, correlations)
                delta = self.updateformer(tokens.transpose(1, 2), checkpointing).transpose(1, 2)
                coordinates, visibility = coordinates + delta[..., :3], visibility + delta[..., 3]
                estimates.append(TrackEstimate(coordinates * half_range + mean, visibility))
        return estimates

    def _tokens(self, coordinates: Tensor, visibility: Tensor, correlations: Tensor) -> Tensor:
        """(batch, frames, points, token_dim)"""
        travelled = coordinates - coordinates[:, :1]
        encoded = [encode_by_octaves(value, FIRST_DEGREE, NUM_DEGREES) for value in (travelled, coordinates)]
        others = self.query_ref_token[:, 1:].expand(-1, coordinates.shape[1] - 1, -1)
        role = torch.cat([self.query_ref_token[:, :1], others], dim=1)
        return torch.cat([visibility[..., None], *encoded, correlations], dim=-1) + role[:, :, None]
