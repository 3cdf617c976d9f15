"""Scores of points tracked in space, in camera axes, as in TAPVid-3D (Koppula et al., NeurIPS 2024; tapnet `compute_tapvid3d_metrics`).

Arrays are ordered by track, then frame: points (..., tracks, frames, 3) in metres, occluded (..., tracks, frames) bool; leading dimensions are
videos. All frames count, the one of the query included (in the image, `tracking.py`, it does not).
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.evaluation.metrics.tracking import THRESHOLDS_PX, TrackScores

Scaling = Literal["none", "median", "mean", "median_on_queries", "per_trajectory", "local_neighborhood", "reproduce_2d"]
"""By what predicted points are multiplied first.

median, mean: one number for each video, the ratio of these of the distances from the camera over all points seen in truth and prediction ·
median_on_queries: over the queries alone · per_trajectory: for each track, so that its depth is right in the frame of its query · local_neighborhood:
the same number for all points near a track, which are scored with it · reproduce_2d: for each point, so that its depth is right · none: nothing.
"""

FIXED_THRESHOLDS_M: tuple[float, ...] = (0.01, 0.04, 0.16, 0.64, 2.56)
_SMALLEST = 1e-12


class _Counts(NamedTuple):
    """Weighted numbers of points (...), the last three for each threshold (..., thresholds)."""

    num: NDArray
    num_said_rightly: NDArray
    num_seen: NDArray
    near: NDArray
    right: NDArray
    wrong: NDArray


def track_scores_3d(
    points: NDArray,
    occluded: NDArray[np.bool_],
    true_points: NDArray,
    true_occluded: NDArray[np.bool_],
    *,
    intrinsics: NDArray | None = None,
    scaling: Scaling = "median",
    query_frames: NDArray | None = None,
    neighbourhood_m: float = 0.05,
    per_track: bool = False,
) -> TrackScores:
    """Scores over all frames and tracks of each video, or of each track by itself; see TrackScores for definitions, directions and empty input.

    intrinsics (..., 4): fx, fy, cx, cy of an image whose shorter side is 256 pixels; thresholds are then THRESHOLDS_PX at the true point's depth.
    Without them they are FIXED_THRESHOLDS_M. query_frames (..., tracks): for the scalings that look at queries; halves are rounded to even, as
    published. A predicted point that is NaN is far off. Without a point to take the scale from all are.
    """
    points, true_points = np.asarray(points), np.asarray(true_points)
    occluded, true_occluded = np.asarray(occluded, np.bool_), np.asarray(true_occluded, np.bool_)
    _check(points, occluded, true_points, true_occluded, query_frames, scaling)
    frames = None if query_frames is None else np.round(np.asarray(query_frames)).astype(np.int64)
    scale = _scale(points, occluded, true_points, true_occluded, frames, scaling)
    reach = _reach(true_points, intrinsics)
    if scaling == "local_neighborhood":
        counts = _local_counts(points, occluded, true_points, true_occluded, reach, scale, neighbourhood_m)
        if not per_track:
            counts = _Counts(*(value.sum(axis=true_occluded.ndim - 2) for value in counts))
    else:
        counts = _counts(points * scale, occluded, true_points, true_occluded, reach, (-1,) if per_track else (-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = counts.num_seen[..., None]
        return TrackScores(counts.num_said_rightly / counts.num, counts.near / seen, counts.right / (seen + counts.wrong))


def _check(points: NDArray, occluded: NDArray, true_points: NDArray, true_occluded: NDArray, query_frames: NDArray | None, scaling: str) -> None:
    shape = true_occluded.shape
    for name, found in {"points": points.shape, "true_points": true_points.shape, "occluded": (*occluded.shape, 3)}.items():
        if len(shape) < 2 or found != (*shape, 3):
            raise InputError(f"{name} is for (..., tracks, frames) = {found[:-1]}; must be {shape} like true_occluded, points as (x, y, z)")
    if scaling not in get_args(Scaling):
        raise InputError(f"scaling {scaling!r}: must be one of {', '.join(get_args(Scaling))}")
    asked = None if query_frames is None else np.asarray(query_frames).shape
    if scaling in ("per_trajectory", "local_neighborhood", "median_on_queries") and asked != shape[:-1]:
        raise InputError(f"scaling {scaling}: query_frames must be {shape[:-1]}, one for each track; found {asked}")


def _reach(true_points: NDArray, intrinsics: NDArray | None) -> NDArray:
    """Distances (..., tracks, frames, thresholds) or (thresholds) below which a point is near, metres."""
    if intrinsics is None:
        return np.array(FIXED_THRESHOLDS_M)
    intrinsics = np.asarray(intrinsics)
    if intrinsics.shape[-1:] != (4,) or intrinsics.ndim not in (1, true_points.ndim - 2):
        raise InputError(f"intrinsics of shape {intrinsics.shape}: must be (4,) or one row for each video, fx fy cx cy")
    focal_px = np.sqrt(intrinsics[..., 0] * intrinsics[..., 1])
    return (true_points[..., 2] / focal_px[..., None, None])[..., None] * np.array(THRESHOLDS_PX)


def _scale(points: NDArray, occluded: NDArray, true_points: NDArray, true_occluded: NDArray, query_frames: NDArray | None, scaling: str) -> NDArray:
    """What to multiply points with: (..., 1 or tracks, 1 or frames, 1)."""
    if scaling == "none":
        return np.ones(1)
    if scaling == "reproduce_2d":
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(true_points[..., 2:] / points[..., 2:])
    at_query = None if query_frames is None else query_frames[..., None]
    if scaling in ("per_trajectory", "local_neighborhood"):
        assert at_query is not None
        true_depth, depth = (np.maximum(np.take_along_axis(p[..., 2], at_query, axis=-1), _SMALLEST) for p in (true_points, points))
        return np.asarray(true_depth / depth)[..., None]
    both_seen = ~(occluded | true_occluded)
    true_distance, distance = (np.where(both_seen, np.sqrt(np.maximum(_SMALLEST, np.square(p).sum(axis=-1))), np.nan) for p in (true_points, points))
    if scaling == "median_on_queries":
        assert at_query is not None
        true_distance, distance = (np.take_along_axis(d, at_query, axis=-1) for d in (true_distance, distance))
    middle = np.nanmean if scaling == "mean" else np.nanmedian
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing to take the scale from: NaN is the answer
        ratio = middle(true_distance, axis=(-2, -1), keepdims=True) / middle(distance, axis=(-2, -1), keepdims=True)
    return np.asarray(ratio)[..., None]


def _counts(
    points: NDArray, occluded: NDArray, true_points: NDArray, true_occluded: NDArray, reach: NDArray, axis: tuple[int, ...], weight: float = 1.0
) -> _Counts:
    """Numbers over the axes (of tracks and frames, counted from the end) times the weight."""
    seen, said_seen = ~true_occluded, ~occluded
    near = np.square(points - true_points).sum(axis=-1)[..., None] < np.square(reach)
    near_and_seen = near & seen[..., None]
    each = tuple(number - 1 for number in axis)
    return _Counts(
        weight * np.ones_like(seen, np.float64).sum(axis=axis),
        weight * (occluded == true_occluded).sum(axis=axis),
        weight * seen.sum(axis=axis),
        weight * near_and_seen.sum(axis=each),
        weight * (near_and_seen & said_seen[..., None]).sum(axis=each),
        weight * (said_seen[..., None] & ~near_and_seen).sum(axis=each),
    )


def _local_counts(
    points: NDArray, occluded: NDArray, true_points: NDArray, true_occluded: NDArray, reach: NDArray, scale: NDArray, neighbourhood_m: float
) -> _Counts:
    """For each track (..., tracks) the numbers of all points that come within neighbourhood_m of it in the same frame, moved by its scale.

    Weighted so that together they count as often as the track's own points are seen.
    """
    *videos, num_tracks, _ = true_occluded.shape
    reach = np.broadcast_to(reach, (*true_occluded.shape, reach.shape[-1]))
    rows = []
    for video in np.ndindex(*videos):
        for track in range(num_tracks):
            offset = np.square(true_points[video] - true_points[video][track]).sum(axis=-1)
            near = offset < neighbourhood_m**2
            seen = (~true_occluded[video])[near].sum()
            weight = (~true_occluded[video][track]).sum() / max(1.0, seen)
            moved = points[video][near] * scale[video][track]
            of = (moved, occluded[video][near], true_points[video][near], true_occluded[video][near], reach[video][near])
            rows.append(_counts(*of, axis=(-1,), weight=weight))
    stacked = (np.stack([row[k] for row in rows]) for k in range(len(_Counts._fields)))
    return _Counts(*(value.reshape(*videos, num_tracks, *value.shape[1:]) for value in stacked))
