"""One-shot object pose: match the frame's dense features with an object's database, solve for the pose, say clearly when there is none.

The published pipeline (MEF, appendix; OnePose++) samples the frame on a stride-4 grid, matches all database descriptors by cosine similarity and
runs RANSAC-PnP. Added here: views to match are picked first (`template_selection`), so that the cost does not grow with the number of views and
objects; a coarse search comes before a fine one and matches are moved to the peak of their similarity (`pose_search`); the last pose guides the
next frame (`temporal_prior`) and a full search follows at once when that fails; what is not found as it stands in its views is looked for at any
roll and size, from keypoints (`keypoint_search`) and templates (`template_search`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, InputError
from perception.core.types import FeatureMap, Frame, NoPose, PoseEstimate, PoseResult
from perception.geometry import se3
from perception.geometry.pnp import SolverConfig
from perception.ops.matching import MatcherConfig
from perception.ops.sampling import first_pixel, sample_map, stratified_grid
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.keypoint_search import FrameKeypoints, find_keypoints
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.pose_search import FoundPose, Guess, GuidedConfig, Query, evenly_thinned, exhaustive, guided
from perception.pipelines.shared import shared_features
from perception.pipelines.template_search import find_templates, pyramid
from perception.pipelines.template_selection import nearest_views, rank_views
from perception.pipelines.temporal_prior import Sightings
from perception.pipelines.view_templates import Templates
from perception.pipelines.zoomed_search import closer_look, in_whole_frame, is_like_its_views, opposite_tilt

_SELECTION_DESCRIPTORS = 2_000
_VIEWS_OF_A_GUESS = 4
_DESCRIPTORS_OF_A_GUESS = 3_000
_WORTH_A_SECOND_LOOK = 0.6
"""Of the least score; what scored less at the first look is not lifted above it by another one."""
_FINER_MAY_LOSE = 0.1
"""A second look, from where the first one ended, is more exact even where it scores a little less."""
_GUESS_ERROR = 0.15
"""How far points may be from where a guess puts them, as a share of the picture that shows the object closer."""


@dataclass(frozen=True, kw_only=True)
class AnyRollConfig(Checked):
    """Search for an object at any roll and size, for databases with templates and keypoints (OnboardingConfig.num_rolls, max_keypoints)."""

    enabled: bool = True
    """Search so when an object is not found as it stands in its views. Switch it off for an upright camera and standing objects: a frame without the
    object then costs less."""
    sure_score: Annotated[float, Range(0.0, 1.0)] = 0.5
    """An upright pose or a guess with this score ends the search; of lower ones the best is taken."""
    num_scales: Annotated[int, Range(1, 12)] = 4
    """Scales of the frame, each smaller by the root of two."""
    largest_scale: Annotated[float, Range(0.25, 4.0)] = 1.4
    """The first of them. At 1.4 the smallest object that is looked for measures about 95 px and with 4 scales the largest about 380 px; 2.8 with 6
    scales also tries objects of 50 px, at four times as many places."""
    num_guesses: Annotated[int, Range(1, 100)] = 6
    """Places, views and rolls of templates that are looked at closer."""
    num_keypoint_guesses: Annotated[int, Range(0, 12)] = 3
    """Poses from keypoints that are looked at closer before those from templates; 0: keypoints are not searched for."""
    max_turn_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 20.0
    """An object that is followed is looked at closer when it is turned by more from the nearest view..."""
    max_scale: Annotated[float, Range(1.0, 100.0)] = 1.7
    """... or is larger or smaller by more than this factor."""


@dataclass(frozen=True, kw_only=True)
class OneShotPoseConfig(Checked):
    """One-shot object pose from a database of descriptors."""

    features: DenseFeaturesConfig = DenseFeaturesConfig(extractor="dense_sift")
    """The extractor; must be the one that the databases were made with. Dense SIFT is the default here, because its small windows see less of what
    lies around an object: it finds more objects that have little print (docs/benchmarks.md, clutter)."""
    databases: tuple[str, ...] = ()
    """Paths of object databases to load."""
    query_stride_px: Annotated[int, Range(1, 64, "px")] = 4
    """Distance of the matched pixels in the frame (stratified sampling; 4 as published)."""
    region_px: tuple[float, ...] = ()
    """Part of the image to search as x0 y0 x1 y1; empty: all of it."""
    search: Literal["coarse_to_fine", "exhaustive"] = "coarse_to_fine"
    """How a frame without prior is searched: every pixel of the grid (as published), or a thinned grid first and then near that pose."""
    coarse_factor: Annotated[int, Range(1, 16)] = 2
    """The coarse search takes every n-th row and column of the query grid."""
    max_coarse_descriptors: Annotated[int, Range(100, 10_000_000)] = 24_000
    """Descriptors of the object that the coarse search matches."""
    exhaustive_fallback: bool = False
    """Search exhaustively when the coarse search finds no pose; finds smaller objects, costs more in frames without the object."""
    guided: GuidedConfig = GuidedConfig()
    """Search near a first pose."""
    any_roll: AnyRollConfig = AnyRollConfig()
    """Search at any roll and size."""
    max_templates: Annotated[int, Range(1, 1000)] = 8
    """Views of one object that are matched in one frame."""
    max_templates_per_frame: Annotated[int, Range(1, 10_000)] = 32
    """Views of all objects together that are matched in one frame; shared out when there are many objects."""
    matcher: MatcherConfig = MatcherConfig()
    solver: SolverConfig = SolverConfig()
    min_score: Annotated[float, Range(0.0, 1.0)] = 0.35
    """No pose is given below this score."""
    temporal_prior: bool = True
    """Use the pose of the last frame to pick views and region; a full search follows when that fails."""
    max_prior_age_s: Annotated[float, Range(0.0, 60.0, "s")] = 3.0
    """Older poses are not used as prior."""
    search_pause_s: Annotated[float, Range(0.0, 600.0, "s")] = 5.0
    """As long as another object is found in each frame, one that was searched for in vain is searched for again only after so long by the frames'
    stamps, since a search takes as long as many frames of following. 0: in each frame."""


class OneShotPose:
    """Holds the known objects and where each was last seen. `step` and the methods that change the objects may be called from several threads."""

    def __init__(self, config: OneShotPoseConfig, features: DenseFeatures | None = None) -> None:
        if config.region_px and (
            len(config.region_px) != 4 or config.region_px[0] >= config.region_px[2] or config.region_px[1] >= config.region_px[3]
        ):
            raise ConfigError(f"OneShotPoseConfig.region_px = {list(config.region_px)}: must be empty or x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        self.config = config
        self.features = features or shared_features(config.features)
        self._lock = threading.Lock()
        self._objects: dict[str, ObjectDatabase] = {}
        self._sightings = Sightings()
        for path in config.databases:
            self.add_object(ObjectDatabase.load(path))

    @property
    def object_names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._objects)

    def add_object(self, database: ObjectDatabase) -> None:
        """Add an object, or replace the one of the same name."""
        if database.extractor != self.features.name:
            raise InputError(
                f"object {database.name!r} was onboarded with the extractor {database.extractor!r}, but this pipeline runs {self.features.name!r}: "
                "set features.extractor to the same, or onboard the object again"
            )
        with self._lock:
            self._objects[database.name] = database
            self._sightings.forget(database.name)

    def remove_object(self, name: str) -> None:
        """Forget an object; an unknown name is an error that lists the known ones."""
        with self._lock:
            if name not in self._objects:
                raise InputError(f"object {name!r} is not known; known: {', '.join(self._objects) or 'none'}")
            del self._objects[name]
            self._sightings.forget(name)

    def reset(self) -> None:
        """Forget where the objects were last seen."""
        with self._lock:
            self._sightings.clear()

    def step(self, frame: Frame) -> PoseResult:
        """Poses of all known objects in one frame. The frame needs a camera (InputError without)."""
        if frame.camera is None:
            raise InputError("one-shot pose needs a calibrated camera: the frame has none")
        with self._lock:
            objects = dict(self._objects)
        feature_map = self.features.step(frame)
        frame = self._within_region(frame)
        num_views = max(1, min(self.config.max_templates, self.config.max_templates_per_frame // max(len(objects), 1)))
        queries, keypoints = self._queries(frame, feature_map, objects.values()), FrameKeypoints(frame)
        found = [self._find(database, keypoints, query, num_views) for database, query in zip(objects.values(), queries, strict=True)]
        estimates = tuple(item for item in found if isinstance(item, PoseEstimate))
        misses = tuple(item for item in found if isinstance(item, NoPose))
        with self._lock:
            self._sightings.end_of_frame(frame.source, (item.object_name for item in estimates))
        return PoseResult(frame.time_ns, frame.frame_id, estimates, misses, feature_map)

    def _within_region(self, frame: Frame) -> Frame:
        """The frame with the region as part of its mask."""
        if not self.config.region_px:
            return frame
        x0, y0, x1, y1 = self.config.region_px
        inside = np.zeros(frame.image.shape[:2], bool)
        inside[max(0, int(y0)) : int(y1) + 1, max(0, int(x0)) : int(x1) + 1] = True
        return replace(frame, mask=inside if frame.mask is None else frame.mask & inside)

    def _queries(self, frame: Frame, feature_map: FeatureMap, objects: Iterable[ObjectDatabase]) -> Iterator[Query]:
        """For each object its own; objects without adapter share one."""
        shared: Query | None = None
        for database in objects:
            if database.adapter is not None:
                yield self._sample(frame, database.adapted(feature_map).on_cpu())
            else:
                shared = shared or self._sample(frame, feature_map.on_cpu())
                yield shared

    def _sample(self, frame: Frame, feature_map: FeatureMap) -> Query:
        assert frame.camera is not None
        height, width = frame.image.shape[:2]
        mask = frame.mask
        stride = self.config.query_stride_px
        points_px = torch.from_numpy(stratified_grid(height, width, stride, mask, first_pixel(feature_map.grid, stride)))
        descriptors = sample_map(feature_map.descriptors, points_px, feature_map.grid)
        textured = descriptors.float().norm(dim=1) > 0.5
        return Query(
            feature_map, frame.camera, descriptors[textured], points_px[textured], None if mask is None else _allowed_cells(feature_map, mask)
        )

    def _find(self, database: ObjectDatabase, keypoints: FrameKeypoints, query: Query, num_views: int) -> PoseEstimate | NoPose:
        """Near the last pose if there is one, then over all views."""
        frame = keypoints.frame
        seen_in = database.name, frame.source, frame.time_ns
        predicted = self._sightings.predict(*seen_in, self.config.max_prior_age_s) if self.config.temporal_prior else None
        if len(query.points_px) == 0:
            return NoPose(database.name, "nothing to match: the image or the region has no texture")
        result: FoundPose | NoPose | None = None
        coarse = query.thinned(self.config.coarse_factor, self.config.query_stride_px)
        if predicted is not None:
            result = self._followed(database, frame, coarse, predicted, num_views)
        if result is None or not self._is_good(result):
            searched_s_ago = self._sightings.searched_s_ago(*seen_in) if self.config.temporal_prior else None
            if searched_s_ago is not None and searched_s_ago < self.config.search_pause_s:
                return NoPose(database.name, f"not found {searched_s_ago:.1f} s ago; searched for every {self.config.search_pause_s:g} s")
            result = self._search(database, query, coarse, num_views)
            if self.config.any_roll.enabled and database.templates is not None and _score(result) < self.config.any_roll.sure_score:
                result = self._any_roll(database, self._guesses(database, database.templates, keypoints), frame, result, num_views)
        if isinstance(result, NoPose) or not self._is_good(result):
            with self._lock:
                self._sightings.missed(*seen_in)
            return result if isinstance(result, NoPose) else self._too_low(database, result)
        estimate = _estimate(database, result, predicted)
        with self._lock:
            if database.name in self._objects:
                self._sightings.found(*seen_in, estimate.camera_from_object)
        return estimate

    def _followed(self, database: ObjectDatabase, frame: Frame, coarse: Query, predicted: NDArray[np.float64], num_views: int) -> FoundPose | NoPose:
        """Near where the object was, in the frame itself or closer where it does not look as in its views."""
        config = self.config.any_roll
        assert frame.camera is not None
        if not config.enabled or is_like_its_views(database, predicted, frame.camera, np.radians(config.max_turn_deg), config.max_scale):
            return self._guided(database, coarse, predicted, num_views, self.config.guided.prior_radius_px)
        return self._closer(database, frame, predicted, num_views, is_followed=True)

    def _guesses(self, database: ObjectDatabase, templates: Templates, keypoints: FrameKeypoints) -> Iterator[NDArray[np.float64]]:
        """First poses at any roll and size, the cheapest first: each is worth its cost only if those before it were not right."""
        config, frame = self.config.any_roll, keypoints.frame
        assert frame.camera is not None
        if database.keypoints is not None and config.num_keypoint_guesses:
            yield from find_keypoints(database.keypoints, keypoints, self.config.solver)[: config.num_keypoint_guesses]
        maps = pyramid(frame, lambda scaled: database.adapted(self.features.step(scaled)), config.num_scales, config.largest_scale)
        for guess in find_templates(templates, maps, frame.camera, config.num_guesses, frame.mask):
            yield guess.camera_from_object

    def _any_roll(
        self, database: ObjectDatabase, guesses: Iterator[NDArray[np.float64]], frame: Frame, upright: FoundPose | NoPose, num_views: int
    ) -> FoundPose | NoPose:
        """Guesses, looked at closer one after another until one is sure."""
        best = upright
        for guess in guesses:
            found = self._closer(database, frame, guess, num_views)
            best = found if _score(found) > _score(best) else best
            if _score(best) >= self.config.any_roll.sure_score:
                break
        if best is upright or not isinstance(best, FoundPose) or best.score < self.config.min_score * _WORTH_A_SECOND_LOOK:
            return best
        starts = best.solution.camera_from_object, opposite_tilt(best)
        finer = max((self._closer(database, frame, start, num_views, is_followed=True) for start in starts), key=_score)
        return finer if _score(finer) >= _score(best) - _FINER_MAY_LOSE else best

    def _closer(
        self, database: ObjectDatabase, frame: Frame, guess: NDArray[np.float64], num_views: int, is_followed: bool = False
    ) -> FoundPose | NoPose:
        """Search in a picture that shows the guessed object as its nearest view does."""
        zoomed = closer_look(database, frame, guess)
        if zoomed is None:
            return NoPose(database.name, "the expected place lies outside of the image")
        query = self._sample(zoomed.frame, database.adapted(self.features.step(zoomed.frame)).on_cpu())
        if len(query.points_px) == 0:
            return NoPose(database.name, "nothing to match at the expected place")
        in_zoomed = zoomed.zoomed_from_camera @ guess
        coarse = query.thinned(self.config.coarse_factor, self.config.query_stride_px)
        if is_followed:
            found = self._guided(database, coarse, in_zoomed, num_views, self.config.guided.prior_radius_px)
        else:
            rows = database.rows_of(nearest_views(database, torch.from_numpy(in_zoomed), _VIEWS_OF_A_GUESS))
            near = Guess(in_zoomed, _GUESS_ERROR * zoomed.frame.image.shape[0])
            found = self._refined(database, coarse, evenly_thinned(rows, _DESCRIPTORS_OF_A_GUESS), coarse, num_views, near)
        return in_whole_frame(found, zoomed) if isinstance(found, FoundPose) else found

    def _search(self, database: ObjectDatabase, query: Query, coarse: Query, num_views: int) -> FoundPose | NoPose:
        """Pick views, then coarse to fine, then (or only, if so configured) exhaustively."""
        subset = query.descriptors[:: max(1, len(query.descriptors) // _SELECTION_DESCRIPTORS)]
        rows = database.rows_of(rank_views(database, subset).argsort(descending=True, stable=True)[:num_views])
        config = self.config
        if config.search == "exhaustive":
            return exhaustive(database, query, rows, config.matcher, config.solver)
        result = self._refined(database, coarse, evenly_thinned(rows, config.max_coarse_descriptors), coarse, num_views)
        if not self._is_good(result) and config.exhaustive_fallback:
            result = self._refined(database, query, rows, coarse, num_views)
        return result

    def _refined(
        self, database: ObjectDatabase, query: Query, rows: torch.Tensor, coarse: Query, num_views: int, guess: Guess | None = None
    ) -> FoundPose | NoPose:
        """A first pose from all matches, then a finer one from the matches near it."""
        first = exhaustive(database, query, rows, self.config.matcher, self.config.solver, guess)
        if isinstance(first, NoPose):
            return first
        finer = self._guided(database, coarse, first.solution.camera_from_object, num_views, self.config.guided.radius_px)
        return finer if isinstance(finer, FoundPose) else first

    def _guided(self, database: ObjectDatabase, coarse: Query, first: NDArray[np.float64], num_views: int, radius_px: float) -> FoundPose | NoPose:
        """Guided search, and once more around its own result when the first pose was only roughly right."""
        config = self.config
        result = guided(database, coarse, first, num_views, radius_px, config.matcher, config.guided, config.solver)
        if isinstance(result, FoundPose) and radius_px > config.guided.radius_px:
            better = guided(
                database, coarse, result.solution.camera_from_object, num_views, config.guided.radius_px, config.matcher, config.guided, config.solver
            )
            result = better if isinstance(better, FoundPose) and better.score >= result.score else result
        return result

    def _is_good(self, result: FoundPose | NoPose) -> bool:
        return isinstance(result, FoundPose) and result.score >= self.config.min_score

    def _too_low(self, database: ObjectDatabase, found: FoundPose) -> NoPose:
        num_matches, num_inliers = len(found.points_px), int(found.solution.inliers.sum())
        reason = f"score {found.score:.2f} is below {self.config.min_score:.2f} ({num_inliers} of {num_matches} matches agree)"
        return NoPose(database.name, reason, num_matches, num_inliers, found.score)


def _score(result: FoundPose | NoPose) -> float:
    return result.score if isinstance(result, FoundPose) else -1.0


def _allowed_cells(feature_map: FeatureMap, mask: NDArray[np.bool_]) -> torch.Tensor:
    """Cells (rows, cols) of a map whose centre lies in the mask (height, width)."""
    _, num_rows, num_cols = feature_map.descriptors.shape
    grid = feature_map.grid
    rows = (grid.offset_px[1] + grid.stride_px[1] * np.arange(num_rows)).round().clip(0, mask.shape[0] - 1).astype(np.int64)
    cols = (grid.offset_px[0] + grid.stride_px[0] * np.arange(num_cols)).round().clip(0, mask.shape[1] - 1).astype(np.int64)
    return torch.from_numpy(mask[np.ix_(rows, cols)])


def _estimate(database: ObjectDatabase, found: FoundPose, predicted: NDArray[np.float64] | None) -> PoseEstimate:
    solution = found.solution
    camera_from_object, object_from_solved = closest_symmetric_pose(solution.camera_from_object, database.symmetries.numpy(), predicted)
    points_object = se3.transform_points(object_from_solved, found.points_object[solution.inliers])
    return PoseEstimate(
        object_name=database.name,
        camera_from_object=camera_from_object,
        covariance=solution.covariance,
        score=found.score,
        num_matches=len(found.points_px),
        num_inliers=int(solution.inliers.sum()),
        reprojection_rms_px=solution.reprojection_rms_px,
        inlier_points_px=found.points_px[solution.inliers].astype(np.float32),
        inlier_points_object=points_object.astype(np.float32),
        bounds_object=database.bounds.numpy(),
    )


def closest_symmetric_pose(
    camera_from_object: NDArray[np.float64], symmetries: NDArray[np.float64], predicted: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of all poses (4, 4) that look the same, the one with the smallest turn from the predicted pose (without one: from the camera's axes).

    Also returns the motion (4, 4) that takes points of the object from where they were to where this pose has them.
    """
    candidates = camera_from_object @ symmetries
    target = np.eye(3) if predicted is None else predicted[:3, :3]
    best = np.argmax(np.einsum("nij,ij->n", candidates[:, :3, :3], target))
    return candidates[best], np.linalg.inv(symmetries[best])
