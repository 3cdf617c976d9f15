"""Adapting the features to one object before its database is built, by MEF on the object's own reference views (You et al., "Multiview Equivariance
Improves 3D Correspondence Understanding with Minimal Feature Finetuning", ICLR 2025).

In each iteration SmoothAP ranks the surface points of one view among those of another one. Trained is one 3x3 convolution of the finished unit
descriptors, which starts as the identity; the network itself stays, so that one pass of it serves all objects and nodes, each object adding its own
convolution. What the convolution sees around each point is computed once, so that an iteration is one product of matrices.

Some views are held back. Their points are looked up among those of all other views, as a pose search does, before and after; when the adapter does
not find more of them it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, InputError
from perception.core.timing import Stopwatch
from perception.core.types import Camera, FeatureMap, ReferenceView
from perception.geometry import se3
from perception.geometry.camera import project
from perception.models.adapter import Adapter
from perception.models.registry import network_names
from perception.ops.sampling import sample_map
from perception.ops.smooth_ap import smooth_ap_loss
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.surface_samples import lift_view
from perception.pipelines.triangulated_tracks import TrackViews

MIN_VIEWS = 4
_HELD_BACK_EVERY, _HELD_BACK_FIRST = 4, 2
_MIN_POSITIVES = 10
_NUM_LOOKED_UP = 500
_NUM_LOSS_PAIRS = 8


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig(Checked):
    """How features are adapted to an object."""

    learning_rate: Annotated[float, Range(1e-7, 1.0)] = 1e-3
    """Of Adam, falling linearly to zero."""
    pairs_per_iteration: Annotated[int, Range(1, 1000)] = 4
    """Pairs of views whose gradients are averaged; with one alone some objects get worse before they get better."""
    num_queries: Annotated[int, Range(1, 100_000)] = 1000
    """Points of the first view of a pair for which those of the second are ranked."""
    max_views: Annotated[int, Range(MIN_VIEWS, 1000)] = 24
    """So many of the reference views take part, evenly spaced; every fourth of them is held back."""
    num_points: Annotated[int, Range(50, 100_000)] = 2000
    """Surface points of each view."""
    positive_below_cells: Annotated[float, Range(0.01, 100.0, "cells")] = 0.5
    """Points of two views nearer than so many cells of the map, at their distance from the camera, are the same (MEF: 5e-3 of the object's size,
    which is 0.2 of its cells)."""
    negative_above_cells: Annotated[float, Range(0.01, 1000.0, "cells")] = 5.0
    """Points farther apart than this must differ (MEF: a tenth of the object's size, which is 4.4 of its cells)."""
    temperature: Annotated[float, Range(1e-4, 10.0)] = 0.01
    """Of the relaxed ranks in SmoothAP."""
    within_px: Annotated[float, Range(0.1, 1000.0, "px")] = 8.0
    """A point of a view that is held back is matched rightly when what it is matched with is seen no farther from it than this."""
    min_gain: Annotated[float, Range(0.0, 1.0)] = 0.005
    """The share of rightly matched points must rise by this, or the adapter is refused."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Of the choice of points and pairs."""


class ReferenceViews(Protocol):
    """Views that can be iterated over more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ReferenceView]: ...


@dataclass(frozen=True)
class MatchQuality:
    """share_within: of the points of views held back, those matched within `AdaptationConfig.within_px` · median_px: median error."""

    share_within: float
    median_px: float


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What came of it. adapter: None when it was refused · losses: mean over the same pairs of views before and after · num_points: how many points
    of views held back were looked up."""

    adapter: Adapter | None
    iterations: int
    losses: tuple[float, float]
    before: MatchQuality
    after: MatchQuality
    within_px: float
    min_gain: float
    num_views: int
    num_held_back: int
    num_points: int
    seconds: float

    @property
    def summary(self) -> str:
        """For the user: what changed, and whether it is used."""
        shares = f"{100 * self.before.share_within:.1f} % → {100 * self.after.share_within:.1f} %"
        errors = f"{self.before.median_px:.1f} → {self.after.median_px:.1f} px"
        points = f"{self.num_points} points of {self.num_held_back} view(s) held back"
        figures = f"{points}, matched within {self.within_px:g} px: {shares}, median error {errors}"
        if self.adapter is not None:
            return f"adapted in {self.iterations} iterations ({self.seconds:.1f} s): {figures}"
        return (
            f"adapter refused, the database is built without: {self.iterations} iterations do not raise the share of right matches by "
            f"{100 * self.min_gain:g} points ({figures})"
        )

    def record(self) -> dict[str, Any]:
        """For the database's provenance."""
        figures = {name: value for name, value in asdict(replace(self, adapter=None)).items() if name != "adapter"}
        return {"accepted": self.adapter is not None, "summary": self.summary, **figures}


@dataclass(frozen=True, eq=False)
class _View:
    """Surface points of one view (num, 3) with the 3x3 cells around each (num, 9 * dim), where they are seen (num, 2), and a cell's size there."""

    points: Tensor
    around: Tensor
    pixels: NDArray[np.float64]
    camera: Camera
    camera_from_object: NDArray[np.float64]
    cell_m: float


def build_adapted_database(
    name: str,
    views: ReferenceViews,
    features: DenseFeatures,
    iterations: int,
    config: AdaptationConfig,
    onboarding: OnboardingConfig,
    progress: Callable[[int, int], None] | None = None,
    source: str = "",
) -> ObjectDatabase:
    """Adapt the features to the object, then `build_database` with what came of it, or without an adapter when it was refused; `Adaptation.record`
    is then in its provenance."""
    adaptation = adapt(views, features, iterations, config, onboarding, progress)
    notes = {"adaptation": adaptation.record()}
    return build_database(name, views, features, onboarding, progress, source, adaptation.adapter, notes)


def adapt(
    views: ReferenceViews,
    features: DenseFeatures,
    iterations: int,
    config: AdaptationConfig,
    onboarding: OnboardingConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Adaptation:
    """Adapt to the object in `views`. `progress(done, total)` is called after each view, then after each iteration.

    Raises ConfigError for an extractor without network or a number of iterations below 1, InputError when there are too few views, when no two of
    them show the same part of the object, or when the loss is no number.
    """
    if iterations < 1:
        raise ConfigError(f"adapt = {iterations}: must be a number of iterations, at least 1, or 0 not to adapt")
    if not features.is_network:
        raise ConfigError(f"features.extractor: {features.name} has no network that could be adapted; such are {', '.join(network_names())}")
    watch = Stopwatch()
    found = list(_collected(views, features, config, onboarding, progress))
    if len(found) < MIN_VIEWS:
        raise InputError(f"adapt: {len(found)} reference view(s) show the object: must be at least {MIN_VIEWS}, some of which are held back")
    held_back = found[_HELD_BACK_FIRST::_HELD_BACK_EVERY]
    kept = [view for number, view in enumerate(found) if number % _HELD_BACK_EVERY != _HELD_BACK_FIRST]
    pairs, looked_up = _overlapping(kept, config), _LookUp(held_back, kept, config)
    start = _identity(features.dim)
    fixed = pairs[:: max(1, len(pairs) // _NUM_LOSS_PAIRS)][:_NUM_LOSS_PAIRS]
    before, loss_before = looked_up.quality(start), _mean_loss(fixed, start, config)
    trained = _trained(start, pairs, iterations, config, progress)
    after, loss_after = looked_up.quality(trained), _mean_loss(fixed, trained, config)
    helps = after.share_within > before.share_within and after.share_within >= before.share_within + config.min_gain
    return Adaptation(
        adapter=_adapter(trained, features) if helps else None,
        iterations=iterations,
        losses=(loss_before, loss_after),
        before=before,
        after=after,
        within_px=config.within_px,
        min_gain=config.min_gain,
        num_views=len(kept),
        num_held_back=len(held_back),
        num_points=looked_up.num,
        seconds=watch.lap(),
    )


def _collected(
    views: ReferenceViews,
    features: DenseFeatures,
    config: AdaptationConfig,
    onboarding: OnboardingConfig,
    progress: Callable[[int, int], None] | None,
) -> Iterator[_View]:
    """The views that take part, those without depth only where none has it, as in `build_database`."""
    generator = torch.Generator().manual_seed(config.seed)
    tracks, tracked, num_lifted = TrackViews(onboarding.tracking), [], 0
    for view in _taking_part(views, config.max_views, progress):
        feature_map = features.step(view.frame).on_cpu()
        if view.frame.depth_m is None:
            tracks.add(view, feature_map)
            tracked.append((view, feature_map))
        else:
            stride_px = math.ceil(min(feature_map.grid.stride_px))
            points = lift_view(view, feature_map, stride_px, onboarding.max_relative_depth_step).points
            num_lifted += 1
            yield from _view(view, feature_map, points, config, generator)
    if tracked and not num_lifted:
        chosen = _evenly(len(tracked), config.max_views)
        for number, (_, points, _) in enumerate(tracks.triangulate()):
            if number in chosen:
                yield from _view(*tracked[number], points, config, generator)


def _taking_part(views: ReferenceViews, max_num: int, progress: Callable[[int, int], None] | None) -> Iterator[ReferenceView]:
    """Of views with depth at most so many, evenly spaced; all without, as a track needs its neighbours."""
    total = len(views)
    chosen = _evenly(total, max_num)
    single = getattr(views, "__getitem__", None)  # a mesh then need not be rendered from all sides
    if single is not None and total and single(0).frame.depth_m is not None:
        for done, number in enumerate(chosen, 1):
            yield single(number)
            if progress:
                progress(done, len(chosen))
        return
    for number, view in enumerate(views):
        if view.frame.depth_m is None or number in chosen:
            yield view
        if progress:
            progress(number + 1, total)


def _evenly(total: int, max_num: int) -> list[int]:
    return np.linspace(0, total - 1, min(total, max_num)).round().astype(int).tolist()


def _view(
    view: ReferenceView, feature_map: FeatureMap, points: NDArray[np.float32], config: AdaptationConfig, generator: torch.Generator
) -> Iterator[_View]:
    """Nothing where the view does not show the object."""
    camera = view.frame.camera
    assert camera is not None
    points = points[torch.randperm(len(points), generator=generator)[: config.num_points].numpy()]
    points_camera = se3.transform_points(view.camera_from_object, points.astype(np.float64))
    pixels = project(points_camera, camera)
    seen = np.isfinite(pixels).all(1)
    if not seen.any():
        return
    cell_m = float(np.median(points_camera[seen, 2]) / camera.fx * feature_map.grid.stride_px[0])
    around = _around(feature_map, pixels[seen])
    yield _View(torch.from_numpy(points[seen]), around, pixels[seen], camera, view.camera_from_object, cell_m)


def _around(feature_map: FeatureMap, pixels: NDArray[np.float64]) -> Tensor:
    """What a 3x3 convolution of the map sees at pixels (num, 2): (num, 9 * dim) float16, between cells interpolated as its output would be."""
    _, rows, cols = feature_map.descriptors.shape
    padded = functional.pad(feature_map.descriptors.float(), (1, 1, 1, 1))
    shifted = [padded[:, row : row + rows, col : col + cols] for row in range(3) for col in range(3)]
    return torch.stack([sample_map(cells, pixels, feature_map.grid, normalize=False) for cells in shifted], dim=2).flatten(1).half()


def _overlapping(views: Sequence[_View], config: AdaptationConfig) -> list[tuple[_View, _View]]:
    """Ordered pairs of views with enough points in common."""
    trees = [cKDTree(view.points.numpy()) for view in views]
    pairs = []
    for first, one in enumerate(views):
        for second in range(first + 1, len(views)):
            other = views[second]
            near, _ = trees[second].query(one.points.numpy(), distance_upper_bound=_radius(one, other, config))
            if np.isfinite(near).sum() >= _MIN_POSITIVES:
                pairs += [(one, other), (other, one)]
    if not pairs:
        raise InputError(
            f"adapt: no two of {len(views)} reference views show the same part of the object; give views that overlap, or check depth and poses"
        )
    return pairs


def _radius(one: _View, other: _View, config: AdaptationConfig) -> float:
    return config.positive_below_cells * (one.cell_m + other.cell_m) / 2


def _identity(dim: int) -> Tensor:
    """(dim, 9 * dim) and a last column, the bias: a convolution that changes nothing."""
    kernel = torch.empty(dim, dim, 3, 3)
    nn.init.dirac_(kernel)
    return torch.cat([kernel.reshape(dim, 9 * dim), kernel.new_zeros(dim, 1)], dim=1)


def _described(view: _View, weight: Tensor, rows: slice = slice(None)) -> Tensor:
    """Unit descriptors (num, dim) of a view's points after the convolution."""
    return functional.normalize(functional.linear(view.around[rows].float(), weight[:, :-1], weight[:, -1]), dim=1)


def _pair_loss(pair: tuple[_View, _View], weight: Tensor, config: AdaptationConfig) -> Tensor:
    one, other = pair
    queries, positive_below = slice(0, config.num_queries), _radius(one, other, config)
    return smooth_ap_loss(
        _described(one, weight, queries)[None],
        _described(other, weight)[None],
        one.points[None, queries],
        other.points[None],
        positive_below=positive_below,
        negative_above=max(1.0, config.negative_above_cells / config.positive_below_cells) * positive_below,
        temperature=config.temperature,
    ).loss


def _mean_loss(pairs: Sequence[tuple[_View, _View]], weight: Tensor, config: AdaptationConfig) -> float:
    with torch.no_grad():
        return float(torch.stack([_pair_loss(pair, weight, config) for pair in pairs]).mean())


def _trained(
    start: Tensor, pairs: Sequence[tuple[_View, _View]], iterations: int, config: AdaptationConfig, progress: Callable[[int, int], None] | None
) -> Tensor:
    """The convolution after so many iterations, rounded as it is stored."""
    weight = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=config.learning_rate)
    generator = torch.Generator().manual_seed(config.seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 1 - done / iterations)
    for done in range(iterations):
        optimiser.zero_grad()
        for number in torch.randint(len(pairs), (config.pairs_per_iteration,), generator=generator).tolist():
            (_pair_loss(pairs[number], weight, config) / config.pairs_per_iteration).backward()
        if weight.grad is None or not weight.grad.isfinite().all():
            raise InputError(f"adapt: the gradient of iteration {done + 1} is no number; check the views for NaN, or lower adaptation.learning_rate")
        optimiser.step()
        schedule.step()
        if progress:
            progress(done + 1, iterations)
    return weight.detach().half().float()


def _adapter(weight: Tensor, features: DenseFeatures) -> Adapter:
    dim = len(weight)
    kernel, bias = weight[:, :-1].reshape(dim, dim, 3, 3), weight[:, -1]
    convs = {"0.weight": kernel.half(), "0.bias": bias.half()}
    return Adapter({}, convs, features.name, unit_input=True)


class _LookUp:
    """Points of the views held back that other views also see, looked up among all points of these. num: how many."""

    def __init__(self, held_back: Sequence[_View], kept: Sequence[_View], config: AdaptationConfig) -> None:
        self._kept, self._config = kept, config
        self._points = torch.cat([view.points for view in kept])
        tree = cKDTree(self._points.numpy())
        self._queries = []
        for view in held_back:
            near, _ = tree.query(view.points[:_NUM_LOOKED_UP].numpy(), distance_upper_bound=2 * view.cell_m)
            self._queries.append((view, np.flatnonzero(np.isfinite(near))))
        self.num = sum(len(rows) for _, rows in self._queries)
        if not self.num:
            raise InputError(f"adapt: the {len(held_back)} views held back share nothing with the {len(kept)} others; give views that overlap")

    def quality(self, weight: Tensor) -> MatchQuality:
        """With the descriptors that a convolution makes."""
        with torch.no_grad():
            references = torch.cat([_described(view, weight) for view in self._kept])
            errors = [self._errors(view, rows, weight, references) for view, rows in self._queries if len(rows)]
        error = np.concatenate(errors)
        return MatchQuality(float((error <= self._config.within_px).mean()), float(np.median(error)))

    def _errors(self, view: _View, rows: NDArray[np.int64], weight: Tensor, references: Tensor) -> NDArray[np.float64]:
        """How far in pixels of the view what its points are matched with is seen from them; infinite behind the camera."""
        queries = _described(view, weight)[torch.from_numpy(rows)]
        matched = self._points[(queries @ references.T).argmax(1)].double().numpy()
        seen = project(se3.transform_points(view.camera_from_object, matched), view.camera)
        return np.linalg.norm(np.nan_to_num(seen, nan=np.inf) - view.pixels[rows], axis=1)
