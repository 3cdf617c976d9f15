"""Surface points from posed views without depth: follow the pixels of each view into the views around it, triangulate the tracks.

The poses are known, so a match must lie on its epipolar line; what is left of the wrong matches falls to the reprojection check over the whole track.
Tracks start anew in each view and are not joined: every view needs points for its own descriptors, and joined grid pixels drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera, FeatureMap, ReferenceView
from perception.geometry.camera import undistort_points
from perception.geometry.triangulation import TriangulationConfig, triangulate
from perception.ops.guided_matching import cell_positions, match_near
from perception.ops.matching import MatcherConfig, match_descriptors
from perception.ops.sampling import first_pixel, sample_map, stratified_grid
from perception.ops.subcell import refine_to_subcell


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Checked):
    """How views without depth are turned into surface points."""

    stride_px: Annotated[int, Range(1, 64, "px")] = 8
    """Distance of the pixels that are matched; where a match lies exactly is found on the finer map."""
    gaps: Annotated[tuple[int, ...], Range(1, None, "views")] = (1, 2, 4, 8)
    """Each view is matched with the views that come so many places before and after it."""
    max_epipolar_error_px: Annotated[float, Range(0.1, 100.0, "px")] = 2.0
    """A match farther from its epipolar line is wrong."""
    matcher: MatcherConfig = MatcherConfig(min_score=0.6)
    """How two views are matched."""
    triangulation: TriangulationConfig = TriangulationConfig(min_views=3)
    """When a track becomes a point."""


@dataclass(frozen=True, eq=False)
class _View:
    camera: Camera
    camera_from_object: NDArray[np.float64]
    features: FeatureMap
    pixels: torch.Tensor
    descriptors: torch.Tensor


class TrackViews:
    """Collects posed views and triangulates what they have in common."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._views: list[_View] = []

    @property
    def num_views(self) -> int:
        return len(self._views)

    @property
    def poses(self) -> list[NDArray[np.float64]]:
        """camera_from_object (4, 4) of each view."""
        return [view.camera_from_object for view in self._views]

    def add(self, view: ReferenceView, features: FeatureMap) -> None:
        """Keep what is needed of a view; its frame must have a camera."""
        frame = view.frame
        if frame.camera is None:
            raise InputError(f"reference view at {frame.time_ns} ns: no camera intrinsics")
        stride, (height, width) = self.config.stride_px, features.image_size
        pixels = torch.from_numpy(stratified_grid(height, width, stride, frame.mask, first_pixel(features.grid, stride)))
        descriptors = sample_map(features.descriptors, pixels, features.grid)
        textured = descriptors.float().norm(dim=1) > 0.5
        self._views.append(_View(frame.camera, view.camera_from_object, features, pixels[textured], descriptors[textured]))

    def triangulate(self) -> Iterator[tuple[torch.Tensor, NDArray[np.float32], NDArray[np.float32]]]:
        """For each view its descriptors (num, dim) float16, points (num, 3) in the object frame and normals (num, 3), zero: they are not known."""
        if self.num_views < self.config.triangulation.min_views:
            needed = self.config.triangulation.min_views
            raise InputError(f"{self.num_views} reference view(s) without depth: at least {needed} are needed to triangulate points")
        for index in range(self.num_views):
            yield self._triangulate_view(index)

    def _triangulate_view(self, index: int) -> tuple[torch.Tensor, NDArray[np.float32], NDArray[np.float32]]:
        """The surface points of one view: each of its pixels is followed into the views around it."""
        anchor = self._views[index]
        around = [other for gap in self.config.gaps for other in (index - gap, index + gap) if 0 <= other < self.num_views]
        seen_px = np.zeros((1 + len(around), len(anchor.pixels), 2))
        visible = np.zeros(seen_px.shape[:2], bool)
        seen_px[0], visible[0] = anchor.pixels.numpy(), True
        for slot, other in enumerate(around, 1):
            rows, pixels = self._follow(anchor, self._views[other])
            seen_px[slot, rows], visible[slot, rows] = pixels, True
        views = [anchor, *(self._views[other] for other in around)]
        poses, cameras = np.stack([view.camera_from_object for view in views]), [view.camera for view in views]
        solved = triangulate(seen_px, visible, poses, cameras, self.config.triangulation)
        kept = np.flatnonzero(solved.valid & solved.used[0])
        return anchor.descriptors[torch.from_numpy(kept)].half(), solved.points[kept].astype(np.float32), np.zeros((len(kept), 3), np.float32)

    def _follow(self, anchor: _View, other: _View) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which pixels of the anchor (num,) are found in another view, and where (num, 2), finer than its grid."""
        matches = match_descriptors(anchor.descriptors, other.descriptors, self.config.matcher)
        rows = torch.from_numpy(matches.query_index)
        descriptors, grid = other.features.descriptors, other.features.grid
        targets = anchor.descriptors[rows].float()
        cells, _ = match_near(descriptors, grid, other.pixels[matches.reference_index], targets, self.config.stride_px)
        pixels = refine_to_subcell(descriptors, grid, cell_positions(grid, cells, descriptors.shape[2]), targets).numpy()
        keep = epipolar_error_px(anchor.pixels[rows].numpy(), pixels, anchor, other) <= self.config.max_epipolar_error_px
        return matches.query_index[keep], pixels[keep]


def epipolar_error_px(first_px: NDArray, second_px: NDArray, first: _View, second: _View) -> NDArray[np.float64]:
    """Sampson distance (num,) in pixels of matched pixels (num, 2) under the known relative pose."""
    second_from_first = second.camera_from_object @ np.linalg.inv(first.camera_from_object)
    x, y, z = second_from_first[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ second_from_first[:3, :3]
    fundamental = np.linalg.inv(second.camera.matrix).T @ essential @ np.linalg.inv(first.camera.matrix)
    a = np.column_stack([undistort_points(first_px.astype(np.float64), first.camera), np.ones(len(first_px))])
    b = np.column_stack([undistort_points(second_px.astype(np.float64), second.camera), np.ones(len(second_px))])
    line_b, line_a = a @ fundamental.T, b @ fundamental
    gradient = np.hypot(line_b[:, 0], line_b[:, 1]) ** 2 + np.hypot(line_a[:, 0], line_a[:, 1]) ** 2
    return np.abs((b * line_b).sum(1)) / np.sqrt(np.maximum(gradient, 1e-18))
