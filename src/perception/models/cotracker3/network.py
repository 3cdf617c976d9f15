"""CoTracker3: features once per frame, then a few corrections of all tracks of a window at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.cotracker3.config import OFFLINE, POSITION_DEGREES, CoTracker3Config
from perception.models.cotracker3.correlation import correlate, query_patches
from perception.models.cotracker3.encoder import Encoder, feature_pyramid
from perception.models.cotracker3.update_transformer import UpdateTransformer
from perception.models.parts.blocks import Mlp
from perception.models.parts.octave_encoding import encode_by_octaves

_FREQUENCY_BASE = 10000.0


class TrackEstimate(NamedTuple):
    """points_px (batch, time, points, 2) as (x, y) · visibility and confidence (batch, time, points), logits; probabilities by `sigmoid`."""

    points_px: Tensor
    visibility: Tensor
    confidence: Tensor


class CoTracker3(nn.Module):
    """The network. Attribute names are the checkpoint's.

    Coordinates, logits and tokens are float32; encoder, correlation reader and transformer run in bfloat16 under `torch.autocast`.
    """

    time_emb: Tensor

    def __init__(self, config: CoTracker3Config = OFFLINE) -> None:
        super().__init__()
        self.config = config
        self.fnet = Encoder(config.feature_dim)
        self.updateformer = UpdateTransformer(config)
        self.corr_mlp = Mlp(config.correlation_size, config.correlation_hidden_dim, config.correlation_dim)
        self.register_buffer("time_emb", time_embedding(config.window_frames, config.token_dim))

    def encode(self, video: Tensor, frames_at_once: int = 8) -> list[Tensor]:
        """video (batch, time, 3, height, width) in [0, 255], sides multiples of 4 → levels (batch, time, height / 4 / 2^l, width / 4 / 2^l, dim).

        Frames do not influence each other, so how many are encoded at once changes memory only.
        """
        images = video.flatten(0, 1)
        # Under autocast the maps are only read by products of half precision: kept so, they take half the memory.
        kind = video.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        parts = []
        for part in images.split(frames_at_once):
            features = self.fnet(2 * (part.float() / 255) - 1)
            parts.append([level.to(dtype) for level in feature_pyramid(features, self.config.correlation_levels)])
        return [torch.cat(level).unflatten(0, video.shape[:2]) for level in zip(*parts, strict=True)]

    def query_patches(self, levels: list[Tensor], frames: Tensor, points_px: Tensor) -> list[Tensor]:
        """Patches (batch, points, P², dim) of each level at points_px (batch, points, 2) of frames (batch, points), indices into `levels`."""
        points = points_px / self.config.stride_px
        return [query_patches(level, frames, points / 2**index, self.config.correlation_radius) for index, level in enumerate(levels)]

    def refine(self, levels: list[Tensor], queries: list[Tensor], start: TrackEstimate, num_iterations: int) -> list[TrackEstimate]:
        """The estimates after each iteration over one window, from an estimate `start`.

        Gradients do not flow from one iteration into the coordinates of the one before.
        """
        stride = self.config.stride_px
        points, visibility, confidence = (value.transpose(1, 2) for value in start)
        points = points / stride
        estimates = []
        for _ in range(num_iterations):
            points = points.detach()
            delta = self.updateformer(self._tokens(levels, queries, TrackEstimate(points, visibility, confidence))).float()
            points = points + delta[..., :2]
            visibility, confidence = visibility + delta[..., 2], confidence + delta[..., 3]
            estimates.append(TrackEstimate(*(value.transpose(1, 2) for value in (points * stride, visibility, confidence))))
        return estimates

    def _tokens(self, levels: list[Tensor], queries: list[Tensor], estimate: TrackEstimate) -> Tensor:
        """(batch, points, time, token_dim); the fields of `estimate` come as (batch, points, time, …), points in cells."""
        config = self.config
        correlations = correlate(levels, queries, estimate.points_px, config.correlation_radius, self.corr_mlp)
        size = estimate.points_px.new_tensor([config.width_px, config.height_px]) / config.stride_px
        steps = estimate.points_px.diff(dim=2) / size
        displacements = torch.cat([functional.pad(-steps, (0, 0, 0, 1)), functional.pad(steps, (0, 0, 1, 0))], dim=-1)
        logits = torch.stack([estimate.visibility, estimate.confidence], dim=-1)
        encoded = encode_by_octaves(displacements, 0, POSITION_DEGREES)
        return torch.cat([logits, correlations.float(), encoded], dim=-1) + self._time_embedding(logits.shape[2])

    def _time_embedding(self, num_frames: int) -> Tensor:
        """(1, time, token_dim): as stored, or stretched to another number of frames."""
        embedding = self.time_emb.float()
        if num_frames == embedding.shape[1]:
            return embedding
        return functional.interpolate(embedding.transpose(1, 2), size=num_frames, mode="linear").transpose(1, 2)

    def forward(self, video: Tensor, queries: Tensor, num_iterations: int = 4) -> list[TrackEstimate]:
        """Track through a whole clip at once, in both directions; the estimates after each iteration.

        video (batch, time, 3, height, width) in [0, 255] · queries (batch, points, 3) as (frame, x, y), pixels.
        """
        levels = self.encode(video)
        patches = self.query_patches(levels, queries[..., 0].long(), queries[..., 1:].float())
        return self.refine(levels, patches, first_estimate(queries, video.shape[1]), num_iterations)


def first_estimate(queries: Tensor, num_frames: int) -> TrackEstimate:
    """Every point stays where it was asked for, with logits 0."""
    points = queries[:, None, :, 1:].float().expand(-1, num_frames, -1, -1)
    logits = points.new_zeros(points.shape[:3])
    return TrackEstimate(points, logits, logits)


def time_embedding(num_frames: int, dim: int) -> Tensor:
    """(1, num_frames, dim) sines, then cosines, of the frame number at frequencies that fall from 1 to 1/10000."""
    frequencies = _FREQUENCY_BASE ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = torch.arange(num_frames, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[None].float()
