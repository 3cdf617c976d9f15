"""Scores of tracked points in the image, and the queries they are asked for, as in TAP-Vid (Doersch et al., NeurIPS 2022; tapnet
`compute_tapvid_metrics`, `sample_queries_first`, `sample_queries_strided`).

Arrays are ordered by track, then frame: points (..., tracks, frames, 2) as (x, y), occluded (..., tracks, frames) bool; leading dimensions are
videos. Distances are in pixels of an image of 256 x 256: scale both true and predicted points to it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

QueryMode = Literal["first", "strided"]
"""first: a point is asked for where it is first seen, frames after it count. strided: wherever it is seen in every fifth frame, all frames but that
one count."""

THRESHOLDS_PX: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
RASTER_PX = 256
STRIDE = 5


@dataclass(frozen=True, eq=False)
class TrackScores:
    """All in [0, 1], higher is better, one value for each video (...) or each track (..., tracks); NaN where there is nothing to count.

    occlusion_accuracy (...) (OA): share of frames in which it is rightly said whether the point is seen · points_within (..., thresholds): share of
    the frames in which the point is seen that lie nearer (strictly) than each threshold, whatever was said of occlusion · jaccard (..., thresholds):
    points rightly said to be seen and near, over all that are seen plus all wrongly said to be (seen at a wrong place counts in both).
    """

    occlusion_accuracy: NDArray[np.float64]
    points_within: NDArray[np.float64]
    jaccard: NDArray[np.float64]
    thresholds_px: tuple[float, ...] = THRESHOLDS_PX

    @property
    def average_points_within(self) -> NDArray[np.float64]:
        """Delta average."""
        return self.points_within.mean(axis=-1)

    @property
    def average_jaccard(self) -> NDArray[np.float64]:
        """AJ."""
        return self.jaccard.mean(axis=-1)


def track_scores(
    points_px: NDArray,
    occluded: NDArray[np.bool_],
    true_points_px: NDArray,
    true_occluded: NDArray[np.bool_],
    query_frames: NDArray,
    query_mode: QueryMode,
    per_track: bool = False,
) -> TrackScores:
    """Scores over all frames and tracks of each video, or of each track by itself.

    query_frames (..., tracks): where each track was asked for; halves are rounded to even, as published. A predicted point that is NaN is far off.
    """
    points_px, true_points_px = np.asarray(points_px), np.asarray(true_points_px)
    occluded, true_occluded = np.asarray(occluded, np.bool_), np.asarray(true_occluded, np.bool_)
    query_frames = np.asarray(query_frames)
    shapes = {"points_px": points_px.shape[:-1], "true_points_px": true_points_px.shape[:-1], "occluded": occluded.shape}
    for name, shape in shapes.items():
        if shape != true_occluded.shape or points_px.shape[-1] != 2 or true_points_px.shape[-1] != 2:
            raise InputError(f"{name} is for (..., tracks, frames) = {shape}; must be {true_occluded.shape} like true_occluded, points as (x, y)")
    if query_frames.shape != true_occluded.shape[:-1]:
        raise InputError(f"query_frames has shape {query_frames.shape}; must be {true_occluded.shape[:-1]}, one for each track")

    asked = _counted(query_frames, true_occluded.shape[-1], query_mode)
    axis = -1 if per_track else (-2, -1)
    seen, said_seen = ~true_occluded & asked, ~occluded & asked
    squared = np.square(points_px - true_points_px).sum(axis=-1)
    num_seen = seen.sum(axis=axis)
    within, jaccard = [], []
    for threshold in THRESHOLDS_PX:
        near = squared < threshold**2
        right = (seen & said_seen & near).sum(axis=axis)
        wrong = (said_seen & ~(seen & near)).sum(axis=axis)
        within.append(_share((seen & near).sum(axis=axis), num_seen))
        jaccard.append(_share(right, num_seen + wrong))
    accuracy = _share(((occluded == true_occluded) & asked).sum(axis=axis), asked.sum(axis=axis))
    return TrackScores(accuracy, np.stack(within, axis=-1), np.stack(jaccard, axis=-1))


def _counted(query_frames: NDArray, num_frames: int, query_mode: QueryMode) -> NDArray[np.bool_]:
    frames, asked_at = np.arange(num_frames), np.round(query_frames)[..., None]
    if query_mode == "first":
        return frames > asked_at
    if query_mode == "strided":
        return frames != asked_at
    raise InputError(f"query mode {query_mode!r}: must be one of first, strided")


def _share(count: NDArray, total: NDArray) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.divide(count, total), np.float64)


def query_places(true_occluded: NDArray[np.bool_], query_mode: QueryMode, stride: int = STRIDE) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tracks (n,) and frames (n,) of the queries of one video, true_occluded (tracks, frames).

    first: one for each track that is seen at all, in the order of the tracks. strided: one for each track seen in frame 0, stride, 2 stride, ...,
    in the order of the frames.
    """
    seen = ~np.asarray(true_occluded, np.bool_)
    if query_mode == "first":
        tracks = np.flatnonzero(seen.any(axis=1))
        return tracks, seen[tracks].argmax(axis=1)
    if query_mode == "strided":
        steps, tracks = np.nonzero(seen[:, ::stride].T)
        return tracks, steps * stride
    raise InputError(f"query mode {query_mode!r}: must be one of first, strided")
