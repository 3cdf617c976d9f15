"""What one view with depth says of a surface: descriptors, and the points and normals they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import FeatureMap, ReferenceView
from perception.geometry import se3
from perception.geometry.camera import unproject
from perception.geometry.point_maps import normals_from_depth
from perception.ops.sampling import first_pixel, sample_map, stratified_grid


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """What one view says of the surface: descriptors (num, dim) float16, points and normals (num, 3) float32 in the object frame."""

    descriptors: torch.Tensor
    points: NDArray[np.float32]
    normals: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> SurfaceSamples:
        return SurfaceSamples(self.descriptors[torch.from_numpy(rows)], self.points[rows], self.normals[rows])


def lift_view(view: ReferenceView, feature_map: FeatureMap, stride_px: int, max_relative_depth_step: float) -> SurfaceSamples:
    """Samples `stride_px` apart where the view's depth is known and has no jump larger than a share of it. Raises InputError without a camera."""
    frame = view.frame
    assert frame.depth_m is not None
    if frame.camera is None:
        raise InputError(f"reference view at {frame.time_ns} ns: no camera intrinsics")
    height, width = frame.image.shape[:2]
    usable = _smooth_depth(frame.depth_m, max_relative_depth_step)
    if frame.mask is not None:
        usable &= frame.mask
    pixels = stratified_grid(height, width, stride_px, usable, first_pixel(feature_map.grid, stride_px))
    descriptors = sample_map(feature_map.descriptors, torch.from_numpy(pixels), feature_map.grid)
    cols, rows = pixels.astype(np.int64).T
    points_camera = unproject(pixels.astype(np.float64), frame.depth_m[rows, cols].astype(np.float64), frame.camera)
    points = se3.transform_points(se3.inverse(view.camera_from_object), points_camera)
    normals = view.normals if view.normals is not None else normals_from_depth(frame.depth_m, frame.camera)
    normals_object = np.nan_to_num(normals[rows, cols].astype(np.float64)) @ view.camera_from_object[:3, :3]
    samples = SurfaceSamples(descriptors.half(), points.astype(np.float32), normals_object.astype(np.float32))
    return samples.take(np.flatnonzero((descriptors.float().norm(dim=1) > 0.5).numpy()))


def _smooth_depth(depth_m: NDArray[np.float32], max_relative_step: float) -> NDArray[np.bool_]:
    """Pixels with a depth whose 3x3 neighbourhood is known and has no jump."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    depth = np.where(known, depth_m, 0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    return known & (cv2.dilate(depth, kernel) - cv2.erode(depth, kernel) <= max_relative_step * np.maximum(depth, 1e-9))
