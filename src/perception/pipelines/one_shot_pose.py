"""One-shot object pose: match the frame's dense features with an object's database, solve for the pose, say clearly when there is none.

The published pipeline (MEF, appendix; OnePose++) samples the frame on a stride-4 grid, matches all database descriptors by cosine similarity and
runs RANSAC-PnP. Added here: views to match are picked first (`template_selection`), so that the cost does not grow with the number of views and objects;
matches are moved to the peak of their similarity; the last pose guides the next frame and a full search follows at once when it fails.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, InputError
from perception.core.types import FeatureMap, Frame, NoPose, PoseEstimate, PoseResult
from perception.geometry.pnp import PnpSolution, SolverConfig, solve_pnp
from perception.ops.matching import MatcherConfig, match_descriptors
from perception.ops.sampling import sample_map, stratified_grid
from perception.ops.subcell import refine_to_subcell
from perception.pipelines.dense_features import DenseFeatures, DenseFeaturesConfig
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.shared import shared_features
from perception.pipelines.template_selection import nearest_views, rank_views
from perception.pipelines.temporal_prior import TemporalPrior

_CELL_PX = 16
_SELECTION_DESCRIPTORS = 2_000


@dataclass(frozen=True, kw_only=True)
class OneShotPoseConfig(Checked):
    """One-shot object pose from a database of descriptors."""

    features: DenseFeaturesConfig = DenseFeaturesConfig()
    """The extractor; must be the one that the databases were made with."""
    databases: tuple[str, ...] = ()
    """Paths of object databases to load."""
    query_stride_px: Annotated[int, Range(1, 64, "px")] = 4
    """Distance of the matched pixels in the frame (stratified sampling; 4 as published)."""
    region_px: tuple[float, ...] = ()
    """Part of the image to search as x0 y0 x1 y1; empty: all of it."""
    max_templates: Annotated[int, Range(1, 1000)] = 8
    """Views of one object that are matched in one frame."""
    max_templates_per_frame: Annotated[int, Range(1, 10_000)] = 32
    """Views of all objects together that are matched in one frame; shared out when there are many objects."""
    matcher: MatcherConfig = MatcherConfig()
    solver: SolverConfig = SolverConfig()
    min_score: Annotated[float, Range(0.0, 1.0)] = 0.5
    """No pose is given below this score."""
    temporal_prior: bool = True
    """Use the pose of the last frame to pick views and region; a full search follows when that fails."""
    max_prior_age_s: Annotated[float, Range(0.0, 60.0, "s")] = 1.0
    """Older poses are not used as prior."""


@dataclass(frozen=True, eq=False)
class _Query:
    """Descriptors (num, dim) of the frame at pixels (num, 2), zero descriptors left out."""

    descriptors: torch.Tensor
    points_px: torch.Tensor

    def take(self, keep: torch.Tensor) -> _Query:
        return _Query(self.descriptors[keep], self.points_px[keep])


class OneShotPose:
    """Holds the known objects and where each was last seen. `step` and the methods that change the objects may be called from several threads."""

    def __init__(self, config: OneShotPoseConfig, features: DenseFeatures | None = None) -> None:
        if config.region_px and (len(config.region_px) != 4 or config.region_px[0] >= config.region_px[2] or config.region_px[1] >= config.region_px[3]):
            raise ConfigError(f"OneShotPoseConfig.region_px = {list(config.region_px)}: must be empty or x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        self.config = config
        self.features = features or shared_features(config.features)
        self._lock = threading.Lock()
        self._objects: dict[str, ObjectDatabase] = {}
        self._priors: dict[tuple[str, str], TemporalPrior] = {}
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
            self._forget(database.name)

    def remove_object(self, name: str) -> None:
        """Forget an object; an unknown name is an error that lists the known ones."""
        with self._lock:
            if name not in self._objects:
                raise InputError(f"object {name!r} is not known; known: {', '.join(self._objects) or 'none'}")
            del self._objects[name]
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._priors = {key: prior for key, prior in self._priors.items() if key[0] != name}

    def reset(self) -> None:
        """Forget where the objects were last seen."""
        with self._lock:
            self._priors.clear()

    def step(self, frame: Frame) -> PoseResult:
        """Poses of all known objects in one frame. The frame needs a camera (InputError without)."""
        if frame.camera is None:
            raise InputError("one-shot pose needs a calibrated camera: the frame has none")
        with self._lock:
            objects = dict(self._objects)
        feature_map = self.features.step(frame)
        query = self._sample(frame, feature_map)
        num_templates = max(1, min(self.config.max_templates, self.config.max_templates_per_frame // max(len(objects), 1)))
        found = [self._find(database, frame, feature_map, query, num_templates) for database in objects.values()]
        estimates = tuple(item for item in found if isinstance(item, PoseEstimate))
        misses = tuple(item for item in found if isinstance(item, NoPose))
        return PoseResult(frame.time_ns, frame.frame_id, estimates, misses, feature_map)

    def _sample(self, frame: Frame, feature_map: FeatureMap) -> _Query:
        height, width = frame.image.shape[:2]
        mask = frame.mask
        if self.config.region_px:
            x0, y0, x1, y1 = self.config.region_px
            inside = np.zeros((height, width), bool)
            inside[max(0, int(y0)) : int(y1) + 1, max(0, int(x0)) : int(x1) + 1] = True
            mask = inside if mask is None else mask & inside
        points_px = torch.from_numpy(stratified_grid(height, width, self.config.query_stride_px, mask))
        descriptors = sample_map(feature_map.descriptors, points_px, feature_map.grid)
        return _Query(descriptors, points_px).take(descriptors.float().norm(dim=1) > 0.5)

    def _find(self, database: ObjectDatabase, frame: Frame, feature_map: FeatureMap, query: _Query, num_templates: int) -> PoseEstimate | NoPose:
        """Guided by the last pose if there is one, then by a search over all views."""
        prior = self._priors.get((database.name, frame.source)) if self.config.temporal_prior else None
        predicted = prior.predict(frame.time_ns, self.config.max_prior_age_s) if prior else None
        result: PoseEstimate | NoPose | None = None
        if predicted is not None:
            visible = prior_region(predicted, database, frame, query.points_px)
            result = self._solve(database, frame, feature_map, query.take(visible), nearest_views(database, torch.from_numpy(predicted), num_templates), predicted)
        if not isinstance(result, PoseEstimate):
            subset = query.descriptors[:: max(1, len(query.descriptors) // _SELECTION_DESCRIPTORS)]
            views = rank_views(database, subset).argsort(descending=True, stable=True)[:num_templates]
            result = self._solve(database, frame, feature_map, query, views, predicted)
        with self._lock:
            if isinstance(result, PoseEstimate) and database.name in self._objects:
                self._priors.setdefault((database.name, frame.source), TemporalPrior()).update(frame.time_ns, result.camera_from_object)
        return result

    def _solve(
        self, database: ObjectDatabase, frame: Frame, feature_map: FeatureMap, query: _Query, views: torch.Tensor, predicted: NDArray[np.float64] | None
    ) -> PoseEstimate | NoPose:
        assert frame.camera is not None
        if len(query.points_px) == 0:
            return NoPose(database.name, "nothing to match: the image or the region has no texture")
        rows = database.rows_of(views)
        reference = database.descriptors[rows]
        matches = match_descriptors(query.descriptors, reference, self.config.matcher)
        num_matches = len(matches.query_index)
        if num_matches < self.config.solver.min_inliers:
            return NoPose(database.name, f"too few matches ({num_matches} of {self.config.solver.min_inliers} needed)", num_matches)
        points_px = refine_to_subcell(
            feature_map.descriptors, feature_map.grid, query.points_px[matches.query_index], reference[matches.reference_index].float()
        ).numpy()
        points_object = database.points[rows[matches.reference_index]].numpy()
        solution = solve_pnp(points_px.astype(np.float64), points_object.astype(np.float64), frame.camera, self.config.solver)
        if solution is None:
            return NoPose(database.name, f"no pose agrees with at least {self.config.solver.min_inliers} of {num_matches} matches", num_matches)
        score = pose_score(points_px[solution.inliers])
        if score < self.config.min_score:
            reason = f"score {score:.2f} is below {self.config.min_score:.2f} ({int(solution.inliers.sum())} of {num_matches} matches agree)"
            return NoPose(database.name, reason, num_matches, int(solution.inliers.sum()), score)
        return _estimate(database, solution, points_px, points_object, score, predicted)


def prior_region(camera_from_object: NDArray[np.float64], database: ObjectDatabase, frame: Frame, points_px: torch.Tensor) -> torch.Tensor:
    """Which pixels (num, 2) lie in the box around the projected object, widened by a quarter on each side; all of them when the object surrounds the camera."""
    assert frame.camera is not None
    low, high = database.bounds.double().numpy()
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    camera_points = corners @ camera_from_object[:3, :3].T + camera_from_object[:3, 3]
    if (camera_points[:, 2] <= 0).any():
        return torch.ones(len(points_px), dtype=torch.bool)
    pixels = camera_points[:, :2] / camera_points[:, 2:] * [frame.camera.fx, frame.camera.fy] + [frame.camera.cx, frame.camera.cy]
    lower, upper = pixels.min(0), pixels.max(0)
    margin = np.maximum(0.25 * (upper - lower), 2 * _CELL_PX)
    lower, upper = torch.from_numpy(lower - margin), torch.from_numpy(upper + margin)
    return ((points_px >= lower) & (points_px <= upper)).all(1)


def pose_score(inlier_points_px: NDArray[np.floating]) -> float:
    """Score in [0, 1) of a pose: n / (n + 15) with n the number of 16-pixel image cells that hold an inlier.

    Cells and not matches are counted, because many matches on one spot say no more than one. 0.5 is reached at 15 cells; docs/benchmarks.md has
    the scores of absent and present objects from which the default threshold was taken. Higher is better; no inliers give 0.
    """
    cells = np.unique((np.asarray(inlier_points_px) // _CELL_PX).astype(np.int64), axis=0)
    return len(cells) / (len(cells) + 15.0)


def _estimate(
    database: ObjectDatabase, solution: PnpSolution, points_px: NDArray, points_object: NDArray, score: float, predicted: NDArray[np.float64] | None
) -> PoseEstimate:
    return PoseEstimate(
        object_name=database.name,
        camera_from_object=closest_symmetric_pose(solution.camera_from_object, database.symmetries.numpy(), predicted),
        covariance=solution.covariance,
        score=score,
        num_matches=len(points_px),
        num_inliers=int(solution.inliers.sum()),
        reprojection_rms_px=solution.reprojection_rms_px,
        inlier_points_px=points_px[solution.inliers].astype(np.float32),
        inlier_points_object=points_object[solution.inliers].astype(np.float32),
        bounds_object=database.bounds.numpy(),
    )


def closest_symmetric_pose(camera_from_object: NDArray[np.float64], symmetries: NDArray[np.float64], predicted: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Of all poses that look the same, the one with the smallest turn from the predicted pose (without one: from the camera's axes)."""
    candidates = camera_from_object @ symmetries
    target = np.eye(3) if predicted is None else predicted[:3, :3]
    return candidates[np.argmax(np.einsum("nij,ij->n", candidates[:, :3, :3], target))]
