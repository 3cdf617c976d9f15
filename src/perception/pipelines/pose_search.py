"""Finding one object in one frame: which matches are tried in which order, and how a pose is judged.

`exhaustive` is the published search: every pixel of the query grid against every descriptor of the chosen views. `coarse` does the same for a
thinned grid and thinned views, and `guided` looks for the object's points only near where a first pose puts them: together they cost a small
part of the exhaustive search and end with more, finer matches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.types import Camera, FeatureMap, NoPose
from perception.geometry import se3
from perception.geometry.camera import project
from perception.geometry.pnp import PnpSolution, SolverConfig, solve_pnp
from perception.ops.guided_matching import beats_the_rest, cell_positions, match_near
from perception.ops.matching import MatcherConfig, match_descriptors
from perception.ops.subcell import refine_to_subcell
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.template_selection import nearest_views

SCORE_CELL_PX = 16
_CELLS_FOR_EVIDENCE = 30.0
_SCORE_VIEWS = 4
_SCORE_POINTS = 4_000


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(Checked):
    """Search near a first pose."""

    max_points: Annotated[int, Range(100, 1_000_000)] = 4_000
    """Points of the object that are looked for within `radius_px`."""
    max_prior_points: Annotated[int, Range(100, 1_000_000)] = 2_000
    """The same within `prior_radius_px`, where each costs several times as much and only a rough pose is wanted."""
    radius_px: Annotated[float, Range(1.0, 500.0, "px")] = 12.0
    """How far from its projection a point is looked for."""
    prior_radius_px: Annotated[float, Range(1.0, 500.0, "px")] = 28.0
    """The same when the first pose is a prediction from the last frame."""
    max_error_px: Annotated[float, Range(0.1, 100.0, "px")] = 4.0
    """Reprojection error of an inlier of the final pose; well below the radius, so that windows cannot make inliers by themselves."""


@dataclass(frozen=True, eq=False)
class Query:
    """Descriptors (num, dim) of the frame at pixels (num, 2), zero ones left out; `allowed` (rows, cols) marks the cells that may be matched."""

    features: FeatureMap
    camera: Camera
    descriptors: torch.Tensor
    points_px: torch.Tensor
    allowed: torch.Tensor | None

    def take(self, keep: torch.Tensor) -> Query:
        """The same frame with some of the pixels."""
        return replace(self, descriptors=self.descriptors[keep], points_px=self.points_px[keep])

    def thinned(self, factor: int, stride: int) -> Query:
        """Every `factor`-th row and column of a grid with `stride`."""
        cells = (self.points_px / stride).long() % factor
        return self.take((cells == factor // 2).all(1))


@dataclass(frozen=True, eq=False)
class FoundPose:
    """A pose with the matches that it was solved from: points_px (num, 2), points_object (num, 3), and its score."""

    solution: PnpSolution
    points_px: NDArray[np.float64]
    points_object: NDArray[np.float64]
    score: float


@dataclass(frozen=True, eq=False)
class Guess:
    """camera_from_object (4, 4), and how far from where it puts them points of the object may be seen."""

    camera_from_object: NDArray[np.float64]
    radius_px: float


def exhaustive(
    database: ObjectDatabase, query: Query, rows: torch.Tensor, matcher: MatcherConfig, solver: SolverConfig, guess: Guess | None = None
) -> FoundPose | NoPose:
    """Match all pixels of the query with the descriptors in `rows` of the database, move the matches to their peaks and solve for the pose.

    With a guess only from matches that agree with it roughly, which makes short work of wrong guesses.
    """
    reference = database.descriptors[rows]
    matches = match_descriptors(query.descriptors, reference, matcher)
    if len(matches) < solver.min_inliers:
        return NoPose(database.name, f"too few matches ({len(matches)} of {solver.min_inliers} needed)", len(matches))
    features = query.features
    points_px = refine_to_subcell(
        features.descriptors, features.grid, query.points_px[matches.query_index], reference[matches.reference_index].float()
    )
    matched = rows[matches.reference_index]
    if guess is not None:
        expected_px, _ = _expected(database, matched, guess.camera_from_object, query)
        near = (expected_px - points_px).norm(dim=1) <= guess.radius_px
        points_px, matched = points_px[near], matched[near]
    return _solved(database, query, points_px, matched, solver)


def guided(
    database: ObjectDatabase,
    query: Query,
    camera_from_object: NDArray[np.float64],
    num_views: int,
    radius_px: float,
    matcher: MatcherConfig,
    config: GuidedConfig,
    solver: SolverConfig,
) -> FoundPose | NoPose:
    """Look for points of the views nearest to a first pose around their projections; a match must beat the rest of the frame."""
    rows = database.rows_of(nearest_views(database, torch.from_numpy(camera_from_object), num_views))
    rows = evenly_thinned(rows, config.max_points if radius_px <= config.radius_px else config.max_prior_points)
    expected_px, facing = _expected(database, rows, camera_from_object, query)
    rows, expected_px = rows[facing], expected_px[facing]
    features = query.features
    targets = database.descriptors[rows].float()
    index, score = match_near(features.descriptors, features.grid, expected_px, targets, radius_px, query.allowed)
    points_px = cell_positions(features.grid, index, features.descriptors.shape[2])
    keep = _best_of_each_cell(index, score) & (score >= matcher.min_score)
    keep[keep.clone()] = beats_the_rest(score[keep], points_px[keep], targets[keep], query.descriptors, query.points_px, 2 * radius_px)
    num_matches = int(keep.sum())
    if num_matches < solver.min_inliers:
        return NoPose(database.name, f"too few matches near the expected pose ({num_matches} of {solver.min_inliers} needed)", num_matches)
    points_px = refine_to_subcell(features.descriptors, features.grid, points_px[keep], targets[keep])
    return _solved(database, query, points_px, rows[keep], replace(solver, max_error_px=min(config.max_error_px, solver.max_error_px)))


def evenly_thinned(rows: torch.Tensor, max_num: int) -> torch.Tensor:
    """At most `max_num` of the rows, evenly spread over their order."""
    if len(rows) <= max_num:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, max_num).round().long()]


def _expected(
    database: ObjectDatabase, rows: torch.Tensor, camera_from_object: NDArray[np.float64], query: Query
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (num, 2) where points should be, and which of them lie in the image in front of the camera on the side that faces it."""
    points = se3.transform_points(camera_from_object, database.points[rows].double().numpy())
    normals = database.normals[rows].double().numpy() @ camera_from_object[:3, :3].T
    facing = (points[:, 2] > 0) & ((normals * points).sum(1) <= 0)
    points[points[:, 2] <= 0] = [0.0, 0.0, 1.0]
    pixels = project(points, query.camera)
    height, width = query.features.image_size
    facing &= (pixels >= 0).all(1) & (pixels[:, 0] <= width - 1) & (pixels[:, 1] <= height - 1)
    return torch.from_numpy(np.nan_to_num(pixels)), torch.from_numpy(facing)


def _best_of_each_cell(index: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """For each target whether no other target fits its cell better (of equal ones the first)."""
    order = score.argsort(descending=True, stable=True)
    cells = index[order]
    by_cell = cells.argsort(stable=True)
    first = torch.ones(len(cells), dtype=torch.bool)
    first[1:] = cells[by_cell][1:] != cells[by_cell][:-1]
    best = torch.zeros(len(index), dtype=torch.bool)
    best[order[by_cell[first]]] = True
    return best


def _solved(database: ObjectDatabase, query: Query, points_px: torch.Tensor, rows: torch.Tensor, solver: SolverConfig) -> FoundPose | NoPose:
    pixels, points = points_px.double().numpy(), database.points[rows].double().numpy()
    solution = solve_pnp(pixels, points, query.camera, solver)
    if solution is None:
        return NoPose(database.name, f"no pose agrees with at least {solver.min_inliers} of {len(pixels)} matches", len(pixels))
    visible_px = _visible_points(database, query, solution.camera_from_object)
    return FoundPose(solution, pixels, points, pose_score(pixels[solution.inliers], visible_px, len(pixels)))


def _visible_points(database: ObjectDatabase, query: Query, camera_from_object: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels (num, 2) where points of the nearest views would be seen, those outside the searched part of the image left out."""
    rows = database.rows_of(nearest_views(database, torch.from_numpy(camera_from_object), _SCORE_VIEWS))
    pixels, facing = _expected(database, evenly_thinned(rows, _SCORE_POINTS), camera_from_object, query)
    pixels = pixels[facing]
    if query.allowed is not None:
        grid = query.features.grid
        cells = ((pixels - torch.tensor(grid.offset_px)) / torch.tensor(grid.stride_px)).round().long()
        rows_of_cells, cols_of_cells = cells[:, 1].clamp(0, query.allowed.shape[0] - 1), cells[:, 0].clamp(0, query.allowed.shape[1] - 1)
        pixels = pixels[query.allowed[rows_of_cells, cols_of_cells]]
    return pixels.numpy()


def pose_score(inlier_points_px: NDArray[np.floating], visible_points_px: NDArray[np.floating], num_matches: int) -> float:
    """Score in [0, 1) of a pose from two kinds of evidence, 1 - (1 - surface) * (1 - agreement); higher is better, no inliers give 0.

    surface: how much of the object's visible surface inliers cover, sqrt(coverage) * w, counted in 16-pixel image cells · agreement: which
    share of all matches are inliers, share^4 * w · w = 1 - exp(-n / 30) with n the cells that are covered. Inliers are not counted by number,
    because neighbouring descriptors overlap: a patch that happens to look alike gives many, but covers one place only. docs/benchmarks.md has
    the scores of absent and present objects from which the default threshold was taken.
    """
    inlier_cells, visible_cells = _cells(inlier_points_px), _cells(visible_points_px)
    num_covered = len(np.intersect1d(inlier_cells, visible_cells))
    weight = 1 - np.exp(-num_covered / _CELLS_FOR_EVIDENCE)
    surface = np.sqrt(num_covered / max(len(visible_cells), 1)) * weight
    agreement = (len(inlier_points_px) / max(num_matches, 1)) ** 4 * weight
    return float(1 - (1 - surface) * (1 - agreement))


def _cells(points_px: NDArray[np.floating]) -> NDArray[np.int64]:
    """Numbers of the score cells that hold a point."""
    cells = np.floor_divide(points_px, SCORE_CELL_PX).astype(np.int64)
    return np.unique(cells[:, 1] * 2**20 + cells[:, 0])
