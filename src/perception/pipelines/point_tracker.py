"""Tracks points by matching each frame straight to the query frame: no chain of frames, so no drift.

`track_clip` is the tracker with which MEF (You et al., ICLR 2025, "Multiview Equivariance ...") was measured on TAP-Vid.
`PointTracker` is its causal twin for live cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import FeatureMap, Frame, Grid, TrackSet
from perception.ops.sampling import sample_map
from perception.ops.soft_argmax import soft_argmax
from perception.pipelines.dense_features import DenseFeatures


@dataclass(frozen=True, kw_only=True)
class PointTrackerConfig(Checked):
    """Localisation of a point in a similarity map, and when it counts as hidden."""

    radius_px: Annotated[float, Range(0.0, 1000.0, "px")] = 35.0
    """Cells within this distance of the best one take part in the sub-cell position."""
    temperature: Annotated[float, Range(1e-4, 100.0, "cosine")] = 1.0
    """Softness of the sub-cell position; 1 is the published value, which averages almost the whole disc, 0.02 follows the peak."""
    min_similarity: Annotated[float, Range(-1.0, 1.0, "cosine")] = 0.6
    """A point less similar to its query than this is hidden; 0.6 is published for ViT features, dense_sift wants about 0.85."""
    anchor_similarity: Annotated[float, Range(-1.0, 1.0, "cosine")] = 0.7
    """Offline only: frames at least this similar have a vote on whether the point is hidden elsewhere."""
    max_return_px: Annotated[float, Range(0.0, 10000.0, "px")] = 16.0
    """Online only: a point whose match leads back to the query frame farther than this from the query is hidden."""


@dataclass(frozen=True, eq=False)
class ClipTracks:
    """Tracks through a whole clip: points_px (num, frames, 2) as (x, y), similarity (num, frames) cosine, occluded (num, frames) bool."""

    points_px: torch.Tensor
    similarity: torch.Tensor
    occluded: torch.Tensor


def locate(descriptors: torch.Tensor, feature_map: torch.Tensor, grid: Grid, config: PointTrackerConfig) -> torch.Tensor:
    """Where unit descriptors (num, dim) lie in a map (dim, rows, cols): points (num, 2) in pixels. Negative similarity counts as none."""
    unit_map = torch.nn.functional.normalize(feature_map, dim=0).to(descriptors.dtype)
    similarity = torch.einsum("nd,drc->nrc", descriptors, unit_map).relu_()
    return soft_argmax(similarity, grid, config.radius_px, config.temperature)


def locate_in_clip(descriptors: torch.Tensor, features: torch.Tensor, grid: Grid, config: PointTrackerConfig) -> torch.Tensor:
    """The points (num, frames, 2) of unit descriptors (num, dim) in each frame of features (frames, dim, rows, cols)."""
    return torch.stack([locate(descriptors, feature_map, grid, config) for feature_map in features], 1)


def track_clip(features: torch.Tensor, queries_xyt: torch.Tensor, grid: Grid, config: PointTrackerConfig) -> ClipTracks:
    """Track points through a clip, looking at all frames before saying which are hidden.

    features (frames, dim, rows, cols), any length of descriptor · queries_xyt (num, 3): pixel x, y and index of the query frame.
    The point in the query frame is estimated like any other. A frame is an anchor of a point if its descriptor there has
    `anchor_similarity` to the one at the estimate in the query frame. What is seen at the track in each frame is looked for in every
    anchor frame; a frame is hidden where the (lower) median of the distances to the track there is larger than for any anchor, or
    where the similarity is below `min_similarity`.
    """
    num_frames = len(features)
    query_frames = queries_xyt[:, 2].long()
    if queries_xyt.ndim != 2 or queries_xyt.shape[1] != 3 or bool(((query_frames < 0) | (query_frames >= num_frames)).any()):
        raise InputError(
            f"queries have shape {tuple(queries_xyt.shape)} and frames {query_frames.tolist()}: must be (num, 3) with frames in [0, {num_frames})"
        )
    if not len(queries_xyt):
        empty = features.new_zeros(0, num_frames)
        return ClipTracks(features.new_zeros(0, num_frames, 2), empty, empty.bool())
    points = locate_in_clip(_sample_each(features, queries_xyt[:, :2], query_frames, grid), features, grid, config)
    at_points = sample_map(features, points.transpose(0, 1), grid).transpose(0, 1)
    reference = at_points[torch.arange(len(points)), query_frames]
    similarity = (at_points * reference[:, None]).sum(-1)
    occluded = [_occluded(*track, features, grid, config) for track in zip(points, at_points, similarity, strict=True)]
    return ClipTracks(points, similarity, torch.stack(occluded))


def _sample_each(features: torch.Tensor, points_px: torch.Tensor, frames: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Unit descriptors (num, dim) of points (num, 2), each in its own frame."""
    sampled = features.new_empty(len(points_px), features.shape[1])
    for frame in frames.unique():
        chosen = frames == frame
        sampled[chosen] = sample_map(features[frame], points_px[chosen], grid)
    return sampled


def _occluded(
    points: torch.Tensor, descriptors: torch.Tensor, similarity: torch.Tensor, features: torch.Tensor, grid: Grid, config: PointTrackerConfig
) -> torch.Tensor:
    """Which frames of one track are hidden: points (frames, 2), descriptors (frames, dim), similarity (frames,) → (frames,) bool."""
    anchors = similarity >= config.anchor_similarity
    if not anchors.any():
        return torch.ones_like(anchors)
    back_at_anchors = locate_in_clip(descriptors, features[anchors], grid, config)
    median_px = (back_at_anchors - points[anchors]).norm(dim=-1).median(1).values
    return (median_px > median_px[anchors].max()) | (similarity < config.min_similarity)


class PointTracker:
    """Tracks points of one frame through a live stream.

    The position is found as in `track_clip`. Hidden is decided from the present alone: the similarity to the query must reach
    `min_similarity`, and the descriptor at the new position, looked for in the query frame, must lead back to within `max_return_px` of
    where the query itself is located there. (`track_clip` asks the votes of later frames instead, which a live stream has not.)
    """

    def __init__(self, config: PointTrackerConfig, features: DenseFeatures) -> None:
        self.config = config
        self._step_features: Callable[[Frame], FeatureMap] = features.step
        self.reset()

    def reset(self) -> None:
        """Forget the points; `start` is needed before the next `step`."""
        self._query_map: FeatureMap | None = None
        self._descriptors = torch.empty(0)
        self._located = torch.empty(0, 2)

    @property
    def num_points(self) -> int:
        """How many points are tracked; 0 before `start`."""
        return len(self._descriptors)

    def start(self, frame: Frame, points_px: NDArray[np.floating]) -> None:
        """Track points_px (num, 2), as (x, y) inside `frame`, from now on. Replaces the points tracked so far."""
        height, width = frame.image.shape[:2]
        points = np.asarray(points_px, np.float32)
        if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
            raise InputError(f"points to track have shape {points.shape}: must be (num, 2), at least one, and finite")
        outside = (points < -0.5).any(1) | (points > [width - 0.5, height - 0.5]).any(1)
        if outside.any():
            raise InputError(f"point to track {points[outside][0].tolist()}: must lie in the {width}x{height} image")
        query_map = self._step_features(frame)
        self._descriptors = sample_map(query_map.descriptors, torch.from_numpy(points).to(query_map.descriptors.device), query_map.grid).float()
        self._located = locate(self._descriptors, query_map.descriptors, query_map.grid, self.config)
        self._query_map = query_map

    def step(self, frame: Frame) -> TrackSet:
        """Where the points are in this frame. Raises InputError before `start`."""
        if self._query_map is None:
            raise InputError("PointTracker.step: no points are tracked; call start(frame, points_px) first")
        current = self._step_features(frame)
        points = locate(self._descriptors, current.descriptors, current.grid, self.config)
        found = sample_map(current.descriptors, points.to(current.descriptors.dtype), current.grid).float()
        similarity = (found * self._descriptors).sum(-1)
        returned = locate(found, self._query_map.descriptors, self._query_map.grid, self.config)
        visible = (similarity >= self.config.min_similarity) & ((returned - self._located).norm(dim=-1) <= self.config.max_return_px)
        ids = np.arange(len(points), dtype=np.int64)
        return TrackSet(ids, points.cpu().numpy(), visible.cpu().numpy(), similarity.cpu().numpy(), frame.time_ns, frame.frame_id)
