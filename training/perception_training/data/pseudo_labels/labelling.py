"""Tracks of one video into a file beside it, unless a file made in the same way is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import InputError
from perception_training.data.pseudo_labels.tracker import ClipTracker, Frames, Report, grid_queries, no_report, read_frame
from perception_training.data.sample import Tracks
from perception_training.data.tracks_file import TracksProvenance, content_hash, read_tracks_file, read_tracks_provenance, write_tracks_file


@dataclass(frozen=True, kw_only=True)
class QueryConfig(Checked):
    """Which points are followed."""

    grid_size: Annotated[int, Range(1, 512)] = 16
    """Points per side of the grid that is laid over a frame."""
    query_every: Annotated[int, Range(0, None, "frames")] = 0
    """Lay the grid over every so many frames; 0: over the first one only."""


@dataclass(frozen=True)
class Labeller:
    """A tracker with its name and the points that it is asked for."""

    name: str
    tracker: ClipTracker
    queries: QueryConfig

    @property
    def settings(self) -> dict[str, Any]:
        """All that the tracks depend on besides weights and video."""
        return {**self.tracker.settings, **to_mapping(self.queries)}

    def staleness(self, video: Path, path: Path) -> str | None:
        """Why the tracks of `video` must be made: None when the file at `path` was made from it in this way, else the reason."""
        if not path.exists():
            return "no tracks yet"
        try:
            stored = read_tracks_provenance(path)
            read_tracks_file(path)
        except InputError as error:
            return str(error)
        wanted = TracksProvenance(
            self.name, self.settings, stored.width_px, stored.height_px, stored.num_frames, content_hash(video), self.tracker.weights_sha256
        )
        return "; ".join(stored.differences(wanted)) or None

    def label(self, video: Path, frames: Frames, path: Path, report: Report = no_report) -> Tracks:
        """Track and write. The file is there only when it is whole."""
        before = content_hash(video)
        height, width = read_frame(frames, 0).shape[:2]
        queries = grid_queries((height, width), len(frames), self.queries.grid_size, self.queries.query_every)
        tracks = self.tracker.track(frames, queries, report)
        provenance = TracksProvenance(self.name, self.settings, width, height, len(frames), before, self.tracker.weights_sha256)
        write_tracks_file(path, tracks, provenance)
        return tracks
