"""Tracks drawn over their video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import TrackSet
from perception.io.images import write_image
from perception.io.videos import VideoWriter
from perception.viz.overlays import draw_tracks
from perception_training.data.pseudo_labels.tracker import Frames, Image
from perception_training.data.sample import Tracks

_SHEET_FRAMES = 6
_SHEET_COLUMNS = 3
_TILE_WIDTH_PX = 640
_VIDEO_WIDTH_PX = 960
_TRAIL_FRAMES = 12
_MAX_POINTS = 400
_VIDEO_RATE_HZ = 10.0


def write_preview(frames: Frames, tracks: Tracks, stem: Path) -> tuple[Path, Path]:
    """Write `<stem>.png`, a sheet of frames evenly spread over the video, and `<stem>.mp4`. Returns both paths.

    Filled dots are visible points, hollow ones hidden, lines the way through the last frames; of many points an even share is drawn.
    """
    sheet, video = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".mp4")
    points = np.unique(np.linspace(0, tracks.num_points - 1, min(_MAX_POINTS, tracks.num_points)).round().astype(int))
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(_SHEET_FRAMES, len(frames))).round().astype(int)).tolist()
    tiles = [overlay(frames[frame], tracks, points, frame, _TILE_WIDTH_PX) for frame in chosen]
    write_image(sheet, _sheet(tiles))
    with VideoWriter(video, _VIDEO_RATE_HZ) as writer:
        for frame in range(len(frames)):
            writer.write(overlay(frames[frame], tracks, points, frame, _VIDEO_WIDTH_PX))
    return sheet, video


def overlay(image: Image, tracks: Tracks, points: NDArray[np.int64], frame: int, width_px: int) -> Image:
    """One frame with these points and the way that they came, scaled down to a width (even sides, as video codecs want)."""
    scale = min(1.0, width_px / image.shape[1])
    width, height = (max(2, round(side * scale) // 2 * 2) for side in (image.shape[1], image.shape[0]))
    canvas = np.asarray(cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    factor = np.array([width / image.shape[1], height / image.shape[0]])
    sets = [_track_set(tracks, points, row, factor) for row in range(max(0, frame - _TRAIL_FRAMES), frame + 1)]
    return draw_tracks(canvas, sets[-1], sets[:-1])


def _track_set(tracks: Tracks, points: NDArray[np.int64], frame: int, factor: NDArray[np.float64]) -> TrackSet:
    points_px = ((tracks.points_px[frame, points] + 0.5) * factor - 0.5).astype(np.float32)
    return TrackSet(points, points_px, tracks.visible[frame, points], np.ones(len(points), np.float32), frame)


def _sheet(tiles: Sequence[Image]) -> Image:
    columns = min(_SHEET_COLUMNS, len(tiles))
    blank = np.zeros_like(tiles[0])
    filled = [*tiles, *[blank] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(filled[start : start + columns]) for start in range(0, len(filled), columns)])
