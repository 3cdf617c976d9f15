"""The interface of point trackers, and all of them by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import ConfigError, InputError, unknown_name
from perception_training.data.sample import Tracks

Image = NDArray[np.uint8]
Report = Callable[[int, int], None]
"""Called with how much is done and how much there is, in steps of the tracker's own."""

TRACKERS: dict[str, str] = {
    "cotracker3_offline": "cotracker3:CoTracker3Offline",
    "cotracker3_online": "cotracker3:CoTracker3Online",
    "lucas_kanade": "lucas_kanade:LucasKanade",
    "raft": "raft:Raft",
}
"""Name → "module:Class"; resolved when it is asked for."""


class Frames(Protocol):
    """Frames (height, width, 3) uint8 RGB of one size by number: an array (T, height, width, 3), a list, or something that reads them late."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int, /) -> Any: ...


class ClipTracker(Protocol):
    """Follows points through a clip.

    settings: what the result depends on, plain mapping, without paths · weights_sha256: of the checkpoint file, empty without one.
    """

    Config: ClassVar[type[Checked]]
    settings: dict[str, Any]
    weights_sha256: str

    def __init__(self, config: Any) -> None: ...

    def track(self, images: Frames, queries: NDArray, report: Report = ...) -> Tracks:
        """Follow queries (N, 3) = (frame, x, y) pixels through all T frames, before the query's frame as well as after.

        In its own frame a point lies where it was asked for and is visible. Points (T, N, 2) are NaN where they are unknown. Raises InputError
        for queries outside of the clip and for frames of different sizes.
        """
        ...


def tracker_class(name: str) -> type[ClipTracker]:
    """The tracker of this name. Raises ConfigError that lists the known ones."""
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    module, kind = TRACKERS[name].split(":")
    found: type[ClipTracker] = getattr(import_module(f"perception_training.data.pseudo_labels.{module}"), kind)
    return found


def create_tracker(name: str, config: Checked | None = None) -> ClipTracker:
    """A tracker by name, with its default settings or with `config` of its own kind."""
    kind = tracker_class(name)
    if config is not None and not isinstance(config, kind.Config):
        raise ConfigError(f"tracker {name}: config is {type(config).__name__}: must be {kind.Config.__name__}")
    return kind(config if config is not None else kind.Config())


def no_report(_done: int, _total: int) -> None:
    """For callers who do not ask."""


def check_clip(images: Frames, queries: NDArray) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Queries as (N, 3) float32, and (height, width) of the clip. Raises InputError when they do not fit together."""
    if not len(images):
        raise InputError("a clip without frames cannot be tracked")
    height, width = read_frame(images, 0).shape[:2]
    checked = np.asarray(queries, np.float32)
    if checked.ndim != 2 or checked.shape[1] != 3 or not len(checked):
        raise InputError(f"track queries have shape {checked.shape}: must be (points, 3) as (frame, x, y), at least one")
    frames = checked[:, 0]
    if not np.isfinite(checked).all() or (frames != np.rint(frames)).any() or (frames < 0).any() or (frames >= len(images)).any():
        raise InputError(f"track queries name frames {frames.min():g} to {frames.max():g}: must be whole numbers in [0, {len(images)})")
    outside = ((checked[:, 1:] < -0.5) | (checked[:, 1:] > np.array([width, height]) - 0.5)).any(1)
    if outside.any():
        x, y = checked[outside][0, 1:]
        raise InputError(f"track query ({x:g}, {y:g}) lies outside of the {width}x{height} image")
    return checked, (height, width)


def read_frame(images: Frames, frame: int, size: tuple[int, int] | None = None) -> Image:
    """One frame. Raises InputError that names its number when it is no RGB image, or not of `size` (height, width)."""
    image: Image = images[frame]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"frame {frame} has shape {image.shape} and type {image.dtype}: must be (height, width, 3) uint8")
    if size is not None and image.shape[:2] != size:
        raise InputError(f"frame {frame} is {image.shape[1]}x{image.shape[0]}, the first one is {size[1]}x{size[0]}: all must have one size")
    return image


def finished_tracks(points_px: NDArray, visible: NDArray, queries: NDArray[np.float32]) -> Tracks:
    """Tracks (T, N, 2) and (T, N) with the query points exactly as they were asked for, and visible."""
    frames, columns = queries[:, 0].astype(np.int64), np.arange(len(queries))
    points_px, visible = points_px.astype(np.float32), visible.copy()
    points_px[frames, columns] = queries[:, 1:]
    visible[frames, columns] = True
    return Tracks(points_px, visible, query_frames=frames)


def grid_queries(size: tuple[int, int], num_frames: int, per_side: int, every: int = 0) -> NDArray[np.float32]:
    """(N, 3) queries on a grid of per_side x per_side points over an image of `size` (height, width).

    Half a cell from the border; in frame 0, or in every `every`-th frame.
    """
    height, width = size
    x = (np.arange(per_side) + 0.5) * width / per_side - 0.5
    y = (np.arange(per_side) + 0.5) * height / per_side - 0.5
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    frames = np.arange(0, num_frames, every) if every else np.zeros(1)
    return np.concatenate([np.insert(grid, 0, frame, axis=1) for frame in frames]).astype(np.float32)
