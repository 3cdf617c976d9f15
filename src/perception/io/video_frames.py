"""Frames of video files by index: exact, with seeks to the nearest key frame, for clips from anywhere in a long video.

Containers address frames by time. Where the file's tables say that the frames follow each other at one rate, index and time are the same thing
and nothing is decoded to know it; otherwise the video is run through once to note the time of every frame.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io.mp4_timing import num_constant_rate_frames

_MP4_SUFFIXES = (".mp4", ".m4v", ".mov")
_MAX_STEPS_AHEAD = 24
"""Frames up to this far ahead are reached by decoding on; a seek decodes from the key frame before, which is about as far."""

_TIME_TOLERANCE = 0.3
"""Share of the time between two frames by which a time may be off and still belong to a frame."""

_MAX_OPEN_VIDEOS, _MAX_TIME_TABLES = 4, 4096


_inherited: list[cv2.VideoCapture] = []
"""Decoders that were open when this process was forked off. They share their place in the file with the parent, so they are not used; and their
threads stayed there, so that closing them would wait for ever."""


class VideoFrames:
    """A video file whose frames are read by index. Can be pickled; the file is opened again where it is needed.

    width, height in pixels · rate_hz · num_frames: exact. Raises InputError when the file is missing, damaged or not a video.
    """

    def __init__(self, path: str | Path) -> None:
        self._capture: cv2.VideoCapture | None = None
        self._process, self._next = os.getpid(), 0
        self.path = Path(path)
        capture = self._opened()
        self.width, self.height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.rate_hz = _rate_hz(capture)
        self._times_s = _frame_times(self.path, _version(self.path))
        if not len(self._times_s):
            raise InputError(f"video {self.path}: not one frame can be decoded: truncated, or an unknown codec")

    @property
    def num_frames(self) -> int:
        return len(self._times_s)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(num_frames,) time of each frame after the first one."""
        if np.isnan(self._times_s[0]):
            return np.arange(self.num_frames) / self.rate_hz
        return self._times_s - self._times_s[0]

    def read(self, frames: Sequence[int]) -> list[NDArray[np.uint8]]:
        """These frames as (height, width, 3) uint8 RGB, in the order asked for; repeats are allowed. Raises InputError that names the file and
        the frame that is not there or cannot be decoded."""
        found: dict[int, NDArray[np.uint8]] = {}
        for frame in sorted(set(frames)):
            if not 0 <= frame < self.num_frames:
                raise InputError(f"video {self.path}: frame {frame} is not there; must be in [0, {self.num_frames})")
            found[frame] = self._read_frame(frame)
        return [found[frame] for frame in frames]

    def close(self) -> None:
        """Close the file; the next read opens it again. Idempotent."""
        capture, self._capture = self._capture, None
        if capture is not None and self._process != os.getpid():
            _inherited.append(capture)
        elif capture is not None:
            capture.release()

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_capture": None}

    def _opened(self) -> cv2.VideoCapture:
        if self._process != os.getpid():
            self.close()
        if self._capture is None:
            self._capture, self._next, self._process = _open(self.path), 0, os.getpid()
        return self._capture

    def _read_frame(self, frame: int) -> NDArray[np.uint8]:
        self._opened()
        if not self._next <= frame <= self._next + _MAX_STEPS_AHEAD:
            self._seek(frame)
        capture = self._opened()
        while self._next < frame:
            self._advance(capture, frame)
        self._advance(capture, frame)
        has_pixels, pixels = capture.retrieve()
        if not has_pixels:
            raise InputError(f"video {self.path}: frame {frame} of {self.num_frames} cannot be decoded: damaged")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def _advance(self, capture: cv2.VideoCapture, frame: int) -> None:
        if not capture.grab():
            at = self._next
            self.close()
            raise InputError(f"video {self.path}: frame {frame} of {self.num_frames} cannot be decoded: it ends after {at} frames: truncated")
        self._next += 1

    def _seek(self, frame: int) -> None:
        """Come to stand at this frame or before it: by its time where that leads to a known frame, else by counting from the start."""
        if frame > _MAX_STEPS_AHEAD and np.isfinite(self._times_s[0]):
            landed = self._landed(frame)
            if landed is not None:
                self._next = landed + 1
                return
            self.close()  # nobody knows where the decoder stands now
        elif frame < self._next:
            self.close()

    def _landed(self, frame: int) -> int | None:
        """Seek to the frame before this one and grab what is there; which frame it is, None unless it is known and before this one."""
        capture = self._opened()
        capture.set(cv2.CAP_PROP_POS_FRAMES, max(0, round((self._times_s[frame - 1] - self._times_s[0]) * self.rate_hz)))
        if not capture.grab():
            return None
        time_s = _time_s(capture)
        index = int(np.abs(self._times_s - time_s).argmin())
        gap = np.diff(self._times_s[max(0, index - 1) : index + 2]).min()
        return index if abs(self._times_s[index] - time_s) <= _TIME_TOLERANCE * gap and index < frame else None


def _open(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise InputError(f"video {path}: no such file")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise InputError(f"video {path}: cannot be opened ({path.stat().st_size} bytes): damaged, or not a video")
    return capture


@functools.lru_cache(maxsize=_MAX_TIME_TABLES)
def _frame_times(path: Path, _version_of_path: tuple[int, int]) -> NDArray[np.float64]:
    """(num_frames,) times as the decoder gives them; NaN where there are no usable ones, and frames are reached by counting."""
    capture = _open(path)
    num = num_constant_rate_frames(path) if path.suffix.lower() in _MP4_SUFFIXES else None
    if num is not None and num == int(capture.get(cv2.CAP_PROP_FRAME_COUNT)):
        has_frame = capture.grab()
        return _time_s(capture) + np.arange(num * has_frame) / _rate_hz(capture)
    times = []
    while capture.grab():
        times.append(_time_s(capture))
    return np.array(times) if (np.diff(times) > 0).all() else np.full(len(times), np.nan)


def _rate_hz(capture: cv2.VideoCapture) -> float:
    return float(capture.get(cv2.CAP_PROP_FPS)) or 30.0


def _time_s(capture: cv2.VideoCapture) -> float:
    return float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000


def video_frames(path: Path) -> VideoFrames:
    """The video, kept open for the next call: a few of each process at a time, since a decoder holds memory and threads."""
    return _open_video(path, _version(path))


def _version(path: Path) -> tuple[int, int]:
    """Changes when the file is written anew; zeros for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=_MAX_OPEN_VIDEOS)
def _open_video(path: Path, _version_of_path: tuple[int, int]) -> VideoFrames:
    return VideoFrames(path)


def read_video_frame(path: Path, frame: int) -> NDArray[np.uint8]:
    """One frame (height, width, 3) uint8 RGB. Raises InputError that names the file and the frame."""
    return video_frames(path).read([frame])[0]
