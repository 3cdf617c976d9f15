"""TAP-Vid-DAVIS (Doersch et al., 2022): 30 videos of DAVIS with points that people followed.

One file, `tapvid_davis.pkl`; format, raster convention and source in `layouts/tapvid_pickle.py`. The pickle is read by an unpickler that knows
nothing but NumPy arrays (`layouts/restricted_pickle.py`), once, and unpacked beside it, so that sequences and frames are read singly from then on.

Queries as in google-deepmind/tapnet, tapvid/evaluation_datasets.py (sample_queries_first, sample_queries_strided). TAP-Vid scores at 256x256: a point
of the tracks is there at (x + 0.5) * 256 / width in raster coordinates.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.data.layouts.tapvid_pickle import UnpackedVideo, unpack
from perception_training.data.sample import Tracks
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

PICKLE = "tapvid_davis.pkl"
STRIDE = 5
"""Frames between the queries of `strided`."""

_SLACK_PX = 1.0


@dataclass(frozen=True, kw_only=True)
class TapVidOptions(Checked):
    """How points are queried."""

    queries: Literal["first", "strided"] = "first"
    """first: each point once, in the first frame that shows it; strided: once in every fifth frame that shows it, as a track of its own."""
    cache: str = ""
    """Folder for the unpacked copy; empty: beside the pickle."""


class TapVidDavis(Dataset):
    """30 videos with hand-labelled point tracks (TAP-Vid-DAVIS).

    One sequence for each video. Tracks: names are the numbers of the annotated points (several tracks of `strided` share one), query_frames as
    the option says. Where a point is hidden its position is as stored; TAP-Vid scores none there. `root` is the pickle or its folder.
    """

    name = "tapvid_davis"
    Options = TapVidOptions
    options: TapVidOptions

    def _list_sequences(self) -> tuple[str, ...]:
        pickle = self.root / PICKLE if self.root.is_dir() else self.root
        folder = Path(self.options.cache) if self.options.cache else pickle.with_name(f"{pickle.name}.unpacked")
        self._videos = {video.name: video for video in unpack(pickle, folder)}
        return tuple(sorted(self._videos))

    def open_sequence(self, name: str) -> RecordedSequence:
        if name not in self._videos:
            raise InputError(f"{self.name} {self.root}: has no video {name!r}; has {', '.join(self.sequence_names)}")
        video = self._videos[name]
        records = tuple(
            FrameRecord(name=f"{index:05d}", source=video.pickle, read_image=functools.partial(video.read_frame, index))
            for index in range(len(video.array("video")))
        )
        return RecordedSequence(self.name, name, records, read_tracks=functools.partial(_read_tracks, video, self.options.queries))


def _read_tracks(video: UnpackedVideo, queries: str) -> Tracks:
    visible = ~video.array("occluded")
    height, width = video.array("video").shape[1:3]
    points_px = np.asarray(video.array("points"), np.float64) * (width, height) - 0.5
    inside = ((points_px >= -0.5 - _SLACK_PX) & (points_px <= np.array([width, height]) - 0.5 + _SLACK_PX)).all(-1)
    if (visible & ~inside).any():
        point, frame = np.argwhere(visible & ~inside)[0]
        at = video.array("points")[point, frame].tolist()
        raise InputError(f"pickle {video.pickle}, video {video.name!r}: point {point} in frame {frame} at {at} is visible but not in [0, 1]")
    rows, frames = (first_queries if queries == "first" else strided_queries)(visible)
    return Tracks(
        points_px[rows].transpose(1, 0, 2).astype(np.float32),
        np.ascontiguousarray(visible[rows].T),
        query_frames=frames,
        names=tuple(str(row) for row in rows),
    )


def first_queries(visible: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which point, in which frame) of each query for (N, T) visibility: the first frame that shows it. Points that are never seen have none."""
    rows = np.flatnonzero(visible.any(axis=1))
    return rows, visible[rows].argmax(axis=1).astype(np.int64)


def strided_queries(visible: NDArray[np.bool_], stride: int = STRIDE) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(which point, in which frame) of each query for (N, T) visibility: every `stride` frames all points that are seen, frame by frame."""
    frames, rows = np.nonzero(visible[:, ::stride].T)
    return rows, (frames * stride).astype(np.int64)
