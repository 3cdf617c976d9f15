"""Tracks that lie beside a video or a folder of images (see tracks_file.py)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from perception.core.errors import InputError
from perception_training.data.sample import Tracks
from perception_training.data.tracks_file import read_tracks_file, tracks_path


def tracks_beside(video: Path, num_frames: int) -> partial[Tracks] | None:
    """How the tracks of this video are read; None when it has none."""
    path = tracks_path(video)
    return partial(_read_tracks, path, num_frames) if path.is_file() else None


def _read_tracks(path: Path, num_frames: int) -> Tracks:
    tracks = read_tracks_file(path)
    if len(tracks.points_px) != num_frames:
        raise InputError(f"tracks {path}: go through {len(tracks.points_px)} frames, their video has {num_frames}: made from another video")
    return tracks
