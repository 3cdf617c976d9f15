"""From views of known pose to an object database: sample descriptors, lift them to the object's surface, thin them, learn the vocabulary.

Depth comes with the view (RGB-D clip, rendered mesh); where no view has depth, pixels are matched between views and triangulated
(`triangulated_tracks`). Views with a mask also give templates and keypoints, by which objects are found at any roll and size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import ConfigError, InputError
from perception.core.types import FeatureMap, Frame, ReferenceView
from perception.geometry import se3
from perception.models.adapter import Adapter, MapAdapter
from perception.ops.farthest_point import farthest_point_indices
from perception.pipelines import object_keypoints, view_templates
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.object_keypoints import ObjectKeypoints, ViewKeypoints, keypoints_of
from perception.pipelines.surface_samples import SurfaceSamples, lift_view
from perception.pipelines.template_selection import build_vocabulary
from perception.pipelines.triangulated_tracks import TrackingConfig, TrackViews
from perception.pipelines.view_templates import Templates, templates_of

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
    num_rolls: Annotated[int, Range(0, 72)] = 12
    """Turns about the optical axis at which views with a mask are also kept as templates, so that the object is found at any roll and size; 0: none
    (an upright camera and objects that stand, or a whole scene as object)."""
    max_keypoints: Annotated[int, Range(0, 100_000)] = 300
    """SIFT keypoints that are kept of each view that gives templates, those with most contrast: by them printed objects are found sooner."""
    symmetry_axis: tuple[float, ...] = ()
    """Axis x y z through the object's origin about which the object looks the same; empty: no symmetry."""
    symmetry_order: Annotated[int, Range(0, 360)] = 0
    """The object looks the same after a turn of 360/order degrees about the symmetry axis; 0: after any turn."""
    tracking: TrackingConfig = TrackingConfig()
    """Used when the views have no depth."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of thinning and vocabulary."""


def build_database(
    name: str,
    views: Iterable[ReferenceView],
    features: DenseFeatures,
    config: OnboardingConfig,
    progress: Callable[[int, int], None] | None = None,
    source: str = "",
    adapter: Adapter | None = None,
    notes: Mapping[str, Any] | None = None,
) -> ObjectDatabase:
    """Learn an object from its reference views. `progress(done, total)` is called after each view (total 0: not known).

    adapter: of this object's own (`adaptation`), becomes part of the database · notes: further entries of its provenance.
    Raises InputError when no view shows the object, or when views without depth cannot be triangulated.
    """
    total = len(views) if isinstance(views, Sized) else 0
    samples: list[SurfaceSamples] = []
    poses: list[NDArray[np.float64]] = []
    tracks = TrackViews(config.tracking)
    applied = None if adapter is None else MapAdapter(adapter, features.dim, f"adapter of object {name!r}")
    templates: list[Templates] = []
    keypoints: list[ObjectKeypoints] = []
    on_tracks: dict[int, ViewKeypoints] = {}

    def extract(frame: Frame) -> FeatureMap:
        found = features.step(frame)
        return (found if applied is None else applied.apply(found, features.name)).on_cpu()

    for done, view in enumerate(views, 1):
        feature_map = extract(view.frame)
        made = templates_of(view, config.num_rolls, extract) if config.num_rolls and view.frame.mask is not None else None
        templates += [made] if made is not None else []
        seen = keypoints_of(view, config.max_keypoints) if made is not None and config.max_keypoints else None
        if view.frame.depth_m is not None:
            samples.append(lift_view(view, feature_map, config.stride_px, config.max_relative_depth_step))
            poses.append(view.camera_from_object)
            keypoints += [seen.on_depth_image(view.frame.depth_m)] if seen is not None else []
        else:
            on_tracks |= {tracks.num_views: seen} if seen is not None else {}
            tracks.add(view, feature_map)
        if progress:
            progress(done, total)
    num_skipped = tracks.num_views if samples else 0
    if not samples and tracks.num_views:
        samples = [SurfaceSamples(*track) for track in tracks.triangulate()]
        keypoints = [seen.on_surface(samples[index].points, config.tracking.stride_px) for index, seen in on_tracks.items()]
        poses = tracks.poses
    provenance = {"source": source, "views_without_depth_left_out": num_skipped, **(notes or {})}
    return replace(
        _assemble(name, samples, poses, features.name, config, provenance),
        adapter=adapter,
        templates=view_templates.joined(templates),
        keypoints=object_keypoints.joined(keypoints),
    )


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
