"""Plain video files, or a tree of them: each file is a sequence, with the tracks that lie beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io.video_frames import video_frames
from perception.io.videos import VIDEO_SUFFIXES
from perception_training.data.layouts.video_tracks import tracks_beside
from perception_training.data.sample import Sample, Tracks
from perception_training.data.sequences import Dataset, FrameSequence


class Videos(Dataset):
    """Video files, with the tracks that lie beside them."""

    name: ClassVar[str] = "videos"

    def _list_sequences(self) -> tuple[str, ...]:
        if self.root.is_file():
            return (self.root.name,)
        paths = (path for path in self.root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        return tuple(sorted(path.relative_to(self.root).as_posix() for path in paths))

    def open_sequence(self, name: str) -> FrameSequence:
        return VideoSequence(self.name, name, self.root if self.root.is_file() else self.root / name)


class VideoSequence(FrameSequence):
    """The frames of one video file. Frames of a call are decoded in the order of the file, whatever the order asked for."""

    def __init__(self, dataset: str, name: str, path: Path) -> None:
        self.dataset, self.name, self.path = dataset, name, path
        video = video_frames(path)
        self._times_s = video.times_s
        self._read_tracks: Callable[[], Tracks] | None = tracks_beside(path, len(self._times_s))

    @cached_property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(f"{frame:06d}" for frame in range(len(self._times_s)))

    @property
    def world_from_camera(self) -> NDArray[np.float64] | None:
        return None

    @cached_property
    def _tracks(self) -> Tracks | None:
        return None if self._read_tracks is None else self._read_tracks()

    def source(self, frame: int) -> str:
        return f"{self.path}, frame {frame}"

    def load(self, frames: Sequence[int]) -> Sample:
        wrong = [frame for frame in frames if not 0 <= frame < len(self)]
        if wrong:
            raise InputError(f"{self.dataset}/{self.name}: frame {wrong[0]} is not there; must be in [0, {len(self)})")
        return Sample(
            dataset=self.dataset,
            sequence=self.name,
            frame_names=tuple(self.frame_names[frame] for frame in frames),
            images=tuple(video_frames(self.path).read(frames)),
            times_s=self._times_s[list(frames)],
            tracks=None if self._tracks is None else self._tracks.at_frames(frames),
        )
