"""True correspondences between two views of a static surface, and where features say they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.types import Camera, FeatureMap
from perception.geometry import se3
from perception.geometry.camera import project, unproject
from perception.geometry.so3 import rotation_angle
from perception.ops.matching import MatcherConfig, match_descriptors
from perception.ops.sampling import sample_map, stratified_grid

_NEAREST = MatcherConfig(mutual=False, min_score=-1.0, precision="float32")
"""In bfloat16 neighbouring pixels of an interpolated map are ties, of which more come than are compared again."""
_NORMAL_LENGTH = 0.5
"""A descriptor shorter than this belongs to a flat patch: it has no direction and finds nothing."""


@dataclass(frozen=True, eq=False)
class PosedView:
    """What is known of a view: camera, world_from_camera (4, 4), depth (height, width) along z (0 unknown), and where to look: `usable`
    (height, width) bool marks the pixels that may be asked for, `searched` those where the answer may lie."""

    camera: Camera
    world_from_camera: NDArray[np.float64]
    depth: NDArray[np.float32]
    usable: NDArray[np.bool_]
    searched: NDArray[np.bool_]


def surface_points(view: PosedView, stride_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels (n, 2) of a grid where the surface is known and may be asked for, and their points (n, 3) in the world."""
    height, width = view.depth.shape
    pixels = stratified_grid(height, width, stride_px, view.usable & (view.depth > 0)).astype(np.float64)
    cols, rows = pixels.astype(np.int64).T
    points = unproject(pixels, view.depth[rows, cols].astype(np.float64), view.camera)
    return pixels, se3.transform_points(view.world_from_camera, points)


def seen_in(points_world: NDArray[np.float64], view: PosedView, max_relative_depth_error: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Pixels (n, 2) of points (n, 3) in a view, and which of them are seen there: in front of the camera, inside the image, and no farther from
    the depth at the nearest pixel than this share of it."""
    points = se3.transform_points(se3.inverse(view.world_from_camera), points_world)
    pixels: NDArray[np.float64] = project(points, view.camera)
    height, width = view.depth.shape
    with np.errstate(invalid="ignore"):
        inside: NDArray[np.bool_] = np.all((pixels >= 0) & (pixels <= (width - 1, height - 1)), axis=1)
    cols, rows = np.where(inside[:, None], np.round(np.nan_to_num(pixels)), 0).astype(np.int64).T
    depth = view.depth[rows, cols]
    near = np.abs(depth - points[:, 2]) < max_relative_depth_error * points[:, 2]
    return pixels, inside & (depth > 0) & view.usable[rows, cols] & near


def turn_between_deg(world_from_a: NDArray, world_from_b: NDArray) -> float:
    """Angle of the rotation between two cameras."""
    return float(np.degrees(rotation_angle(world_from_a[:3, :3].T @ world_from_b[:3, :3])))


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pixels (n, 2) of one image in which others are looked for, and their unit descriptors (n, dim)."""

    pixels: NDArray[np.float32]
    descriptors: torch.Tensor

    @classmethod
    def of_map(cls, features: FeatureMap, searched: NDArray[np.bool_] | None, stride_px: int) -> Candidates:
        """Every `stride_px`-th pixel of the image, with `searched` (height, width) only where true, descriptors interpolated to the pixels."""
        pixels = stratified_grid(*features.image_size, stride_px, searched)
        return cls(pixels, descriptors_at(features, pixels))

    def nearest(self, queries: torch.Tensor) -> NDArray[np.float64]:
        """Pixels (m, 2) whose descriptors are most like the queries (m, dim), by cosine; NaN where a query has no direction (flat patch)."""
        found = np.full((len(queries), 2), np.nan)
        if len(self.pixels):
            matches = match_descriptors(queries, self.descriptors, _NEAREST)
            found[matches.query_index] = self.pixels[matches.reference_index]
        found[(queries.norm(dim=1) < _NORMAL_LENGTH).cpu().numpy()] = np.nan
        return found


def descriptors_at(features: FeatureMap, pixels: NDArray) -> torch.Tensor:
    """Unit descriptors (n, dim) float32 at pixels (n, 2)."""
    points = torch.as_tensor(np.asarray(pixels, np.float32), device=features.descriptors.device)
    return sample_map(features.descriptors.float(), points, features.grid)
