"""Tracks out of motion between neighbouring frames: from each query's frame forwards to the end and backwards to the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_training.data.pseudo_labels.tracker import Frames, Image, Report, check_clip, finished_tracks, read_frame
from perception_training.data.sample import Tracks


class Follower(Protocol):
    """Motion between two frames. One follower serves one pass, frame after frame, and may remember what it saw."""

    def start(self, image: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]) -> None:
        """These points (n,) begin in this frame, at points_px (n, 2)."""

    def follow(
        self, before: Image, after: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Where these points of the frame before lie in the frame after (n, 2), and which were found (n,)."""


def chain(images: Frames, queries: NDArray, followers: tuple[Follower, Follower], report: Report) -> Tracks:
    """Follow queries (N, 3) = (frame, x, y) with one follower forwards and one backwards.

    A point that is not found again, or leaves the image, is lost from there on: unknown (NaN) and not visible.
    """
    checked, size = check_clip(images, queries)
    num_frames = len(images)
    points_px = np.full((num_frames, len(checked), 2), np.nan, np.float32)
    query_frames = checked[:, 0].astype(np.int64)
    points_px[query_frames, np.arange(len(checked))] = checked[:, 1:]
    orders: tuple[Sequence[int], Sequence[int]] = (range(int(query_frames.min()), num_frames), range(int(query_frames.max()), -1, -1))
    total, done = sum(len(order) for order in orders), 0
    for follower, order in zip(followers, orders, strict=True):
        before = np.zeros((0, 0, 3), np.uint8)
        for place, frame in enumerate(order):
            image = read_frame(images, frame, size)
            if place:
                _advance(follower, (before, image), points_px[order[place - 1]], points_px[frame], query_frames == frame)
            new = np.flatnonzero(query_frames == frame)
            if len(new):
                follower.start(image, new, points_px[frame, new])
            before = image
            done += 1
            report(done, total)
    return finished_tracks(points_px, np.asarray(np.isfinite(points_px).all(2)), checked)


def _advance(
    follower: Follower, pair: tuple[Image, Image], from_px: NDArray[np.float32], to_px: NDArray[np.float32], starts_here: NDArray[np.bool_]
) -> None:
    """Write into to_px (N, 2) where the points known in from_px (N, 2) went.

    In the second pass, to_px holds what the first one found; only unknown points are followed.
    """
    active = np.flatnonzero(np.isfinite(from_px).all(1) & ~starts_here & np.isnan(to_px).any(1))
    if not len(active):
        return
    found_px, found = follower.follow(*pair, active, from_px[active])
    height, width = pair[1].shape[:2]
    inside = ((found_px >= -0.5) & (found_px <= np.array([width, height]) - 0.5)).all(1)
    to_px[active[found & inside]] = found_px[found & inside]
