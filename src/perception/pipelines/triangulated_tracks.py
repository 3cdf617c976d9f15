"""Surface points from posed views without depth: match each view with later ones, join the matches to tracks, triangulate.

The poses are known, so a match must lie on its epipolar line; what is left of the wrong matches falls to the reprojection check over the whole track.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera, FeatureMap, ReferenceView
from perception.geometry.camera import undistort_points
from perception.geometry.triangulation import TriangulationConfig, triangulate
from perception.ops.matching import MatcherConfig, match_descriptors
from perception.ops.sampling import first_pixel, sample_map, stratified_grid
from perception.ops.subcell import refine_to_subcell

_TRACKS_AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Checked):
    """How views without depth are turned into surface points."""

    stride_px: Annotated[int, Range(1, 64, "px")] = 4
    """Distance of the pixels that are matched."""
    gaps: tuple[int, ...] = (1, 2, 4, 8)
    """Each view is matched with the views that come so many places later."""
    max_epipolar_error_px: Annotated[float, Range(0.1, 100.0, "px")] = 3.0
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
            raise InputError(
                f"{self.num_views} reference view(s) without depth: at least {self.config.triangulation.min_views} are needed to triangulate points"
            )
        starts = np.cumsum([0, *(len(view.pixels) for view in self._views)])
        tracks = self._join(starts)
        points, pixels_used = self._solve(tracks, starts)
        for index, view in enumerate(self._views):
            mine = pixels_used & (tracks >= starts[index]) & (tracks < starts[index + 1])
            track, slot = np.nonzero(mine)
            local = torch.from_numpy(tracks[track, slot] - starts[index])
            yield view.descriptors[local].half(), points[track].astype(np.float32), np.zeros((len(track), 3), np.float32)

    def _join(self, starts: NDArray) -> NDArray[np.int64]:
        """Tracks (num, views) as node numbers, -1 where a view does not see the track; nodes of view v are starts[v] ... starts[v + 1] - 1."""
        links = [self._match(i, i + gap, starts) for i in range(self.num_views) for gap in self.config.gaps if i + gap < self.num_views]
        edges = np.concatenate([np.empty((0, 2), np.int64), *links])
        num_nodes = int(starts[-1])
        graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
        _, label = connected_components(graph, directed=False)
        view_of = np.repeat(np.arange(self.num_views), np.diff(starts))
        size = np.bincount(label)
        # A component that holds two pixels of one view joined different surface points: it is dropped.
        occupied, counts = np.unique(label * self.num_views + view_of, return_counts=True)
        size[occupied[counts > 1] // self.num_views] = 0
        good = np.flatnonzero(size >= self.config.triangulation.min_views)
        number = np.full(len(size), -1)
        number[good] = np.arange(len(good))
        tracks = np.full((len(good), self.num_views), -1, np.int64)
        nodes = np.flatnonzero(number[label] >= 0)
        tracks[number[label[nodes]], view_of[nodes]] = nodes
        return tracks

    def _match(self, i: int, j: int, starts: NDArray) -> NDArray[np.int64]:
        """Pairs (num, 2) of nodes of views i and j that match and lie on each other's epipolar lines."""
        first, second = self._views[i], self._views[j]
        matches = match_descriptors(first.descriptors, second.descriptors, self.config.matcher)
        error_px = epipolar_error_px(first.pixels[matches.query_index].numpy(), second.pixels[matches.reference_index].numpy(), first, second)
        # Both pixels lie on grids: each is up to half a stride away from where the match really is.
        keep = error_px <= self.config.max_epipolar_error_px + self.config.stride_px / 2
        return np.stack([starts[i] + matches.query_index[keep], starts[j] + matches.reference_index[keep]], axis=1)

    def _solve(self, tracks: NDArray[np.int64], starts: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Points (num, 3) and which observations support them (num, views); none where the point failed the checks."""
        points = np.full((len(tracks), 3), np.nan)
        used = np.zeros(tracks.shape, bool)
        cameras = [view.camera for view in self._views]
        for start in range(0, len(tracks), _TRACKS_AT_ONCE):
            part = slice(start, start + _TRACKS_AT_ONCE)
            pixels, visible = self._pixels(tracks[part], starts)
            solved = triangulate(pixels, visible, np.stack(self.poses), cameras, self.config.triangulation)
            points[part] = solved.points
            used[part] = (solved.used & solved.valid).T
        return points, used

    def _pixels(self, tracks: NDArray[np.int64], starts: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Where each view sees each track (views, num, 2), finer than the grid: at the peak of the similarity to the track's first descriptor."""
        visible = tracks.T >= 0
        pixels = np.zeros((*visible.shape, 2))
        owner = visible.argmax(axis=0)
        target = torch.zeros(len(tracks), self._views[0].features.dim)
        for index, view in enumerate(self._views):
            own = np.flatnonzero(owner == index)
            target[own] = view.descriptors[tracks[own, index] - starts[index]].float()
            # A track is owned by the first view that sees it, so its target is set before any other view needs it.
            seen = np.flatnonzero(visible[index])
            coarse = view.pixels[tracks[seen, index] - starts[index]]
            pixels[index, seen] = refine_to_subcell(view.features.descriptors, view.features.grid, coarse, target[seen]).numpy()
        return pixels, visible


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
