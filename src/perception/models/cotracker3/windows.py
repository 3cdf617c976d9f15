"""Tracks through a video of any length: windows that overlap by half, each started from the estimates of the one before.

Only the frames of one window are in memory, and each frame is encoded once. This is how the online network was trained (windows of 16 frames,
8 apart; short ones filled up with their last frame); the offline network runs in the same way over what is too long for one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from perception.models.cotracker3.network import CoTracker3, TrackEstimate, first_estimate


class WindowedTracking:
    """Online tracking with carried-over state: hand in frames in order, get the tracks so far.

    queries (batch, points, 3) as (frame, x, y), all known from the start; a point influences others only from the window that holds its frame.
    num_frames_needed: how many frames the next `step` takes; fewer end the video.
    """

    def __init__(self, network: CoTracker3, queries: Tensor, num_iterations: int = 6) -> None:
        self._network, self._queries, self._num_iterations = network, queries, num_iterations
        self._window = network.config.window_frames
        self._start = 0
        self._levels: list[Tensor] = []
        self._patches: list[Tensor] = []
        self._tracks: TrackEstimate | None = None
        self._is_finished = False

    @property
    def num_frames_needed(self) -> int:
        """A whole window at first, then half of one."""
        return self._window if self._tracks is None else self._window // 2

    def step(self, video: Tensor) -> TrackEstimate:
        """video (batch, 1 … num_frames_needed, 3, height, width) in [0, 255]: the frames that follow → the tracks through all frames so far.

        Later windows correct the second half of the one before.
        """
        num_new = video.shape[1]
        assert 0 < num_new <= self.num_frames_needed, "as many frames as are needed, or fewer at the end"
        assert not self._is_finished, "fewer frames than needed end the video"
        self._is_finished = num_new < self.num_frames_needed
        fresh = self._network.encode(video)
        self._take_query_patches(fresh, self._start + (self._levels[0].shape[1] if self._levels else 0))
        levels = [torch.cat([old, new], dim=1) for old, new in zip(self._levels, fresh, strict=True)] if self._levels else fresh
        num_frames = levels[0].shape[1]
        if self._network.config.pads_windows:
            levels = [_filled_up(level, self._window) for level in levels]
        is_known = self._queries[..., 0] < self._start + self._window
        patches = [patch * is_known[..., None, None] for patch in self._patches]
        estimate = self._network.refine(levels, patches, self._first(levels[0].shape[1]), self._num_iterations)[-1]
        self._keep(TrackEstimate(*(value[:, :num_frames] for value in estimate)))
        self._levels = [level[:, self._window // 2 : num_frames] for level in levels]
        self._start += self._window // 2
        assert self._tracks is not None
        return self._tracks

    def _take_query_patches(self, levels: list[Tensor], first_frame: int) -> None:
        """Remember the features around the queries of these frames; those of frames to come are zero."""
        num_frames = levels[0].shape[1]
        frames = self._queries[..., 0].long() - first_frame
        is_here = (frames >= 0) & (frames < num_frames)
        found = self._network.query_patches(levels, frames.clamp(0, num_frames - 1), self._queries[..., 1:].float())
        found = [patch * is_here[..., None, None] for patch in found]
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

    def _keep(self, window: TrackEstimate) -> None:
        if self._tracks is None:
            self._tracks = window
        else:
            self._tracks = TrackEstimate(*(torch.cat([old[:, : self._start], new], dim=1) for old, new in zip(self._tracks, window, strict=True)))


def track_in_windows(network: CoTracker3, frames: Iterable[Tensor], queries: Tensor, num_iterations: int = 6) -> Iterator[TrackEstimate]:
    """The tracks so far after each window, from single frames (batch, 3, height, width); the last ones reach through the whole video."""
    tracking = WindowedTracking(network, queries, num_iterations)
    waiting: list[Tensor] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == tracking.num_frames_needed:
            yield tracking.step(torch.stack(waiting, dim=1))
            waiting = []
    if waiting:
        yield tracking.step(torch.stack(waiting, dim=1))


def _filled_up(values: Tensor, num_frames: int) -> Tensor:
    """values (batch, time, …) with the last one repeated up to `num_frames`."""
    missing = num_frames - values.shape[1]
    return values if missing <= 0 else torch.cat([values, values[:, -1:].expand(-1, missing, *values.shape[2:])], dim=1)
