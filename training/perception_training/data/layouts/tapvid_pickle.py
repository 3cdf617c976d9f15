"""Pickles of TAP-Vid (Doersch et al., 2022): videos as uint8 arrays with annotated point tracks.

Format as in google-deepmind/tapnet, tapvid/README.md and tapvid/evaluation_datasets.py: a dict (TAP-Vid-DAVIS, RoboTAP) or a list (RGB-Stacking) of
{video (T, height, width, 3) uint8, points (N, T, 2) float32 as (x, y) in [0, 1] of the raster, occluded (N, T) bool}. Raster coordinates have their
origin at the corner of the first pixel (tapnet utils/viz_utils.py), so that a point lies at x * width - 0.5 where pixel centres are at integers.

A pickle of gigabytes has to be read as a whole (and takes as much memory while it is). It is therefore unpacked once into .npy files, from which
single frames are mapped.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception_training.data.layouts.restricted_pickle import read_array_pickle

_INDEX = "index.json"
_VERSION = 1


@dataclass(frozen=True)
class UnpackedVideo:
    """One video of an unpacked pickle: its name in the pickle, its folder, and the pickle, which errors name."""

    name: str
    folder: Path
    pickle: Path

    def read_frame(self, index: int) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB."""
        return np.array(self.array("video")[index])

    def array(self, part: str) -> NDArray:
        """`video`, `points` or `occluded`, mapped from disk."""
        path = self.folder / f"{part}.npy"
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"unpacked video {path}: cannot be read ({error}); remove {self.folder.parent} to unpack {self.pickle} anew") from error


def unpack(pickle: Path, folder: Path) -> tuple[UnpackedVideo, ...]:
    """The videos of a TAP-Vid pickle, unpacked into `folder` unless that holds this very file (same size and time of change) already.

    Raises InputError that names the pickle when it is damaged, holds anything but arrays, or a video is not as described above.
    """
    try:
        stamp = [_VERSION, pickle.stat().st_size, pickle.stat().st_mtime_ns]
    except OSError as error:
        raise InputError(f"pickle {pickle}: cannot be read ({error.strerror or 'no such file'})") from error
    names = _unpacked_names(folder, stamp)
    if names is None:
        names = _write(pickle, folder, stamp)
    return tuple(UnpackedVideo(name, folder / f"{number:04d}", pickle) for number, name in enumerate(names))


def _unpacked_names(folder: Path, stamp: list[int]) -> list[str] | None:
    try:
        index = json.loads((folder / _INDEX).read_text())
    except (OSError, ValueError):
        return None
    return list(index["videos"]) if isinstance(index, dict) and index.get("stamp") == stamp else None


def _write(pickle: Path, folder: Path, stamp: list[int]) -> list[str]:
    content = read_array_pickle(pickle)
    if isinstance(content, list):
        content = {f"{number:04d}": video for number, video in enumerate(content)}
    if not isinstance(content, dict) or not content:
        raise InputError(f"pickle {pickle}: holds {'no videos' if not content else f'a {type(content).__name__}'}; must be a dict or list of videos")
    for name, video in content.items():
        _check_video(f"pickle {pickle}, video {name!r}", video)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary) / "made"
            for number, video in enumerate(content.values()):
                (made / f"{number:04d}").mkdir(parents=True)
                for part in ("video", "points", "occluded"):
                    np.save(made / f"{number:04d}" / f"{part}.npy", video[part], allow_pickle=False)
            (made / _INDEX).write_text(json.dumps({"stamp": stamp, "videos": [str(name) for name in content]}))
            _put_in_place(made, folder, stamp)
    except OSError as error:
        raise InputError(f"cannot unpack {pickle} into {folder} ({error.strerror or error}): choose another folder by the option cache") from error
    return [str(name) for name in content]


def _put_in_place(made: Path, folder: Path, stamp: list[int]) -> None:
    """Move the finished folder to where it is looked for; another process may have done so in the meantime."""
    if folder.exists() and _unpacked_names(folder, stamp) is None:
        shutil.rmtree(folder)
    try:
        os.rename(made, folder)
    except OSError:
        if _unpacked_names(folder, stamp) is None:
            raise


def _check_video(place: str, video: Any) -> None:
    if not isinstance(video, dict) or not {"video", "points", "occluded"} <= set(video):
        raise InputError(f"{place}: must be a dict with video, points and occluded")
    for part in ("video", "points", "occluded"):
        if not isinstance(video[part], np.ndarray):
            raise InputError(f"{place}: {part} is a {type(video[part]).__name__}: must be an array")
    frames, points, occluded = video["video"], video["points"], video["occluded"]
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise InputError(f"{place}: video has shape {frames.shape} and type {frames.dtype}: must be (frames, height, width, 3) uint8")
    if points.ndim != 3 or points.shape[1:] != (len(frames), 2) or points.dtype.kind != "f" or not len(points):
        raise InputError(f"{place}: points have shape {points.shape} and type {points.dtype}: must be (points, {len(frames)}, 2) floating point")
    if occluded.shape != points.shape[:2] or occluded.dtype != np.bool_:
        raise InputError(f"{place}: occluded has shape {occluded.shape} and type {occluded.dtype}: must be {points.shape[:2]} bool")
