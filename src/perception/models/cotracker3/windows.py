"""Tracks through a video of any length: windows that overlap by half, each started from the estimates of the one before.

Only the frames of one window are in memory, and each frame is encoded once. This is how the online network was trained (windows of 16 frames,
8 apart; short ones filled up with their last frame); the offline network runs in the same way over what is too long for one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from perception.models.cotracker3.network import CoTracker3, TrackEstimate, first_estimate


def feature_windows(network: CoTracker3, frames: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Feature maps of windows that start half a window after each other, from single frames (batch, 3, height, width) in [0, 255].

    Levels as from `CoTracker3.encode`; the last window may be shorter. Each frame is taken when it is needed and encoded once.
    """
    window = network.config.window_frames
    kept: list[Tensor] = []
    waiting: list[Tensor] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == (window // 2 if kept else window):
            levels = _joined(kept, network.encode(torch.stack(waiting, dim=1)))
            waiting = []
            yield levels
            kept = [level[:, window // 2 :] for level in levels]
            del levels
    if waiting:
        yield _joined(kept, network.encode(torch.stack(waiting, dim=1)))


class WindowedTracking:
    """Tracking with carried-over state: hand in window after window, get the tracks so far.

    queries (batch, points, 3) as (frame, x, y), all known from the start; the features of a point are zero until the window that holds its frame.
    """

    def __init__(self, network: CoTracker3, queries: Tensor, num_iterations: int = 6) -> None:
        self._network, self._queries, self._num_iterations = network, queries, num_iterations
        self._window = network.config.window_frames
        self._start = 0
        self._patches: list[Tensor] = []
        self._tracks: TrackEstimate | None = None
        self._is_finished = False

    def step(self, levels: list[Tensor]) -> TrackEstimate:
        """levels of the next window, from `feature_windows` → the tracks through all frames so far.

        A later window corrects the second half of the one before.
        """
        num_frames = levels[0].shape[1]
        assert not self._is_finished, "only the last window may be short"
        self._is_finished = num_frames < self._window
        self._take_query_patches(levels)
        if self._network.config.pads_windows:
            levels = [_filled_up(level, self._window) for level in levels]
        is_known = self._queries[..., 0] < self._start + self._window
        patches = [patch * is_known[..., None, None] for patch in self._patches]
        estimate = self._network.refine(levels, patches, self._first(levels[0].shape[1]), self._num_iterations)[-1]
        window = TrackEstimate(*(value[:, :num_frames] for value in estimate))
        if self._tracks is not None:
            window = TrackEstimate(*(torch.cat([old[:, : self._start], new], dim=1) for old, new in zip(self._tracks, window, strict=True)))
        self._tracks = window
        self._start += self._window // 2
        return window

    def _take_query_patches(self, levels: list[Tensor]) -> None:
        """Remember the features around the queries of the frames that are new."""
        num_frames = levels[0].shape[1]
        frames = self._queries[..., 0].long() - self._start
        is_new = (frames >= (self._window // 2 if self._patches else 0)) & (frames < num_frames)
        found = self._network.query_patches(levels, frames.clamp(0, num_frames - 1), self._queries[..., 1:].float())
        found = [patch * is_new[..., None, None] for patch in found]
        self._patches = [old + new for old, new in zip(self._patches, found, strict=True)] if self._patches else found

    def _first(self, num_frames: int) -> TrackEstimate:
        """The estimates of the window before, the last one repeated, for points asked for by its end; else where the point was asked for."""
        start = first_estimate(self._queries, num_frames)
        if self._tracks is None:
            return start
        is_tracked = self._queries[:, None, :, 0] < self._start + self._window // 2
        before = [_filled_up(value[:, self._start :], num_frames) for value in self._tracks]
        points = torch.where(is_tracked[..., None], before[0], start.points_px)
        logits = [torch.where(is_tracked, value, 0.0) for value in before[1:]]
        return TrackEstimate(points, *logits)


def track_in_windows(network: CoTracker3, frames: Iterable[Tensor], queries: Tensor, num_iterations: int = 6) -> Iterator[TrackEstimate]:
    """The tracks so far after each window; the last ones reach through the whole video."""
    tracking = WindowedTracking(network, queries, num_iterations)
    for levels in feature_windows(network, frames):
        yield tracking.step(levels)


def _joined(before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    return [torch.cat(pair, dim=1) for pair in zip(before, after, strict=True)] if before else after


def _filled_up(values: Tensor, num_frames: int) -> Tensor:
    """values (batch, time, …) with the last one repeated up to `num_frames`, or cut to as many."""
    missing = num_frames - values.shape[1]
    return values[:, :num_frames] if missing <= 0 else torch.cat([values, values[:, -1:].expand(-1, missing, *values.shape[2:])], dim=1)
