"""From views of known pose to an object database: sample descriptors, lift them to the object's surface, thin them, learn the vocabulary.

Depth comes with the view (RGB-D clip, rendered mesh); where no view has depth, pixels are matched between views and triangulated
(`triangulated_tracks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import ConfigError, InputError
from perception.core.types import FeatureMap, ReferenceView
from perception.geometry import se3
from perception.geometry.camera import unproject
from perception.geometry.point_maps import normals_from_depth
from perception.ops.farthest_point import farthest_point_indices
from perception.ops.sampling import first_pixel, sample_map, stratified_grid
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.template_selection import build_vocabulary
from perception.pipelines.triangulated_tracks import TrackingConfig, TrackViews

_CONTINUOUS_STEPS = 72


@dataclass(frozen=True, kw_only=True)
class OnboardingConfig(Checked):
    """How a database is made from reference views."""

    stride_px: Annotated[int, Range(1, 64, "px")] = 4
    """Distance of the sampled pixels in a reference view."""
    max_descriptors: Annotated[int, Range(100, 10_000_000)] = 120_000
    """Size cap over all views; above it the points of each view are thinned evenly over the surface (MEF keeps 120,000)."""
    max_relative_depth_step: Annotated[float, Range(0.0, 1.0)] = 0.03
    """Pixels next to a depth jump larger than this share of their depth are left out: their descriptor belongs to two surfaces."""
    num_words: Annotated[int, Range(2, 65_536)] = 512
    """Size of the vocabulary that picks the views to match."""
    symmetry_axis: tuple[float, ...] = ()
    """Axis x y z through the object's origin about which the object looks the same; empty: no symmetry."""
    symmetry_order: Annotated[int, Range(0, 360)] = 0
    """The object looks the same after a turn of 360/order degrees about the symmetry axis; 0: after any turn."""
    tracking: TrackingConfig = TrackingConfig()
    """Used when the views have no depth."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of thinning and vocabulary."""


@dataclass(frozen=True, eq=False)
class SurfaceSamples:
    """What one view says of the surface: descriptors (num, dim) float16, points and normals (num, 3) float32 in the object frame."""

    descriptors: torch.Tensor
    points: NDArray[np.float32]
    normals: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> SurfaceSamples:
        return SurfaceSamples(self.descriptors[torch.from_numpy(rows)], self.points[rows], self.normals[rows])


def build_database(
    name: str,
    views: Iterable[ReferenceView],
    features: DenseFeatures,
    config: OnboardingConfig,
    progress: Callable[[int, int], None] | None = None,
    source: str = "",
) -> ObjectDatabase:
    """Learn an object from its reference views. `progress(done, total)` is called after each view (total 0: not known).

    Raises InputError when no view shows the object, or when views without depth cannot be triangulated.
    """
    total = len(views) if isinstance(views, Sized) else 0
    samples: list[SurfaceSamples] = []
    poses: list[NDArray[np.float64]] = []
    tracks = TrackViews(config.tracking)
    for done, view in enumerate(views, 1):
        feature_map = features.step(view.frame).on_cpu()
        if view.frame.depth_m is not None:
            samples.append(_lift_view(view, feature_map, config))
            poses.append(view.camera_from_object)
        else:
            tracks.add(view, feature_map)
        if progress:
            progress(done, total)
    num_skipped = tracks.num_views if samples else 0
    if not samples and tracks.num_views:
        samples = [SurfaceSamples(*track) for track in tracks.triangulate()]
        poses = tracks.poses
    return _assemble(name, samples, poses, features.name, config, {"source": source, "views_without_depth_left_out": num_skipped})


def _lift_view(view: ReferenceView, feature_map: FeatureMap, config: OnboardingConfig) -> SurfaceSamples:
    frame = view.frame
    assert frame.depth_m is not None
    if frame.camera is None:
        raise InputError(f"reference view at {frame.time_ns} ns: no camera intrinsics")
    height, width = frame.image.shape[:2]
    usable = _smooth_depth(frame.depth_m, config.max_relative_depth_step)
    if frame.mask is not None:
        usable &= frame.mask
    pixels = stratified_grid(height, width, config.stride_px, usable, first_pixel(feature_map.grid, config.stride_px))
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


def _assemble(name: str, samples: list[SurfaceSamples], poses: list, extractor: str, config: OnboardingConfig, provenance: dict) -> ObjectDatabase:
    num_found = sum(len(sample.points) for sample in samples)
    if num_found == 0:
        raise InputError(
            f"object {name!r}: no surface point was found in {len(samples)} reference view(s): it is out of view, masked out, or has no valid depth"
        )
    if num_found > config.max_descriptors:
        quotas = [int(config.max_descriptors * len(sample.points) / num_found) for sample in samples]
        samples = [sample.take(farthest_point_indices(sample.points, quota, seed=config.seed)) for sample, quota in zip(samples, quotas, strict=True)]
    kept = [index for index, sample in enumerate(samples) if len(sample.points)]
    samples, poses = [samples[index] for index in kept], [poses[index] for index in kept]
    descriptors = torch.cat([sample.descriptors for sample in samples])
    points = torch.from_numpy(np.concatenate([sample.points for sample in samples]))
    view_starts = torch.tensor([0, *np.cumsum([len(sample.points) for sample in samples])], dtype=torch.int64)
    vocabulary, view_words = build_vocabulary(descriptors, view_starts, config.num_words, config.seed)
    return ObjectDatabase(
        name=name,
        extractor=extractor,
        descriptors=descriptors,
        points=points,
        normals=torch.from_numpy(np.concatenate([sample.normals for sample in samples])).half(),
        view_starts=view_starts,
        camera_from_object=torch.from_numpy(np.stack(poses)).double(),
        vocabulary=vocabulary,
        view_words=view_words,
        symmetries=torch.from_numpy(symmetry_transforms(config)),
        bounds=torch.from_numpy(np.quantile(points.numpy(), [0.001, 0.999], axis=0).astype(np.float32)),
        provenance={**provenance, "num_points_found": num_found, "onboarding": to_mapping(config)},
    )


def symmetry_transforms(config: OnboardingConfig) -> NDArray[np.float64]:
    """Transforms (num, 4, 4) of the object onto itself, identity first; a continuous symmetry is cut into steps of 5 degrees."""
    if not config.symmetry_axis:
        return np.eye(4)[None]
    if len(config.symmetry_axis) != 3 or not np.linalg.norm(config.symmetry_axis) > 0:
        raise ConfigError(f"OnboardingConfig.symmetry_axis = {list(config.symmetry_axis)}: must be empty or three numbers that are not all zero")
    axis = np.asarray(config.symmetry_axis) / np.linalg.norm(config.symmetry_axis)
    steps = config.symmetry_order or _CONTINUOUS_STEPS
    twists = np.zeros((steps, 6))
    twists[:, 3:] = axis * (2 * np.pi * np.arange(steps) / steps)[:, None]
    return se3.exp(twists)
