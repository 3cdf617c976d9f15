"""Tracks on disk: one `.npz` beside each video, with where they come from, so that stale ones are recognised.

Layout (own): points_px (T, N, 2) float32, visible (T, N) bool, query_frames (N,) int64 and points_world (T, N, 3) float32 where known,
names (N,) text where points have names, provenance: one JSON text. Nothing in it needs pickle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perception.core.errors import InputError
from perception.io.images import list_images
from perception_training.data.sample import Tracks

SUFFIX = ".tracks.npz"
FORMAT_VERSION = 1

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class TracksProvenance:
    """What tracks were made from and how.

    tracker: its name · config: all settings, the queries included, plain nested mapping · weights_sha256: of the checkpoint file, empty without
    weights · width_px, height_px, num_frames: of the video as decoded · content_sha256: of the video, see `content_hash`.
    """

    tracker: str
    config: Mapping[str, Any]
    width_px: int
    height_px: int
    num_frames: int
    content_sha256: str
    weights_sha256: str = ""
    format_version: int = field(default=FORMAT_VERSION)

    def differences(self, other: TracksProvenance) -> list[str]:
        """What differs from `other`, one phrase each ("tracker was raft, is lucas_kanade"); empty when the tracks are still good."""
        mine, theirs = (json.loads(json.dumps(dataclasses.asdict(item), sort_keys=True)) for item in (self, other))
        return [_difference(name, mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]]


def _difference(name: str, was: object, now: object) -> str:
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        return ", ".join(f"{name}.{key} was {was.get(key)}, is {now.get(key)}" for key in keys)
    if name.endswith("sha256"):
        return f"the {name.removesuffix('_sha256')} has changed"
    return f"{name} was {was}, is {now}"


def tracks_path(video: Path) -> Path:
    """Where the tracks of a video file or of a folder of images lie: beside it, `<name>.tracks.npz`."""
    return video.with_name(video.name + SUFFIX)


def content_hash(video: Path) -> str:
    """SHA-256 of a video file, or of names and contents of the images of a folder. Raises InputError when it cannot be read."""
    digest = hashlib.sha256()
    for path in list_images(video) if video.is_dir() else [video]:
        if path != video:
            digest.update(path.name.encode() + b"\0")
        try:
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def write_tracks_file(path: Path, tracks: Tracks, provenance: TracksProvenance) -> None:
    """Write tracks and where they come from; a reader sees the old file or the whole new one, never a part."""
    arrays: dict[str, Any] = {
        "points_px": np.asarray(tracks.points_px, np.float32),
        "visible": tracks.visible,
        "provenance": np.array(json.dumps(dataclasses.asdict(provenance), sort_keys=True)),
    }
    if tracks.points_world is not None:
        arrays["points_world"] = np.asarray(tracks.points_world, np.float32)
    if tracks.query_frames is not None:
        arrays["query_frames"] = np.asarray(tracks.query_frames, np.int64)
    if tracks.names:
        arrays["names"] = np.array(tracks.names)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"tracks {path}: cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def read_tracks_file(path: Path) -> Tracks:
    """The tracks of a file. Raises InputError that names the file when it is missing, damaged or of another layout."""
    arrays = _read(path, ("points_px", "visible", "query_frames", "points_world", "names"))
    try:
        return Tracks(
            points_px=arrays["points_px"].astype(np.float32, copy=False),
            visible=arrays["visible"],
            points_world=arrays.get("points_world"),
            query_frames=arrays.get("query_frames"),
            names=tuple(str(name) for name in arrays.get("names", ())),
        )
    except (InputError, KeyError, ValueError) as error:
        raise InputError(f"tracks {path}: not a file of tracks ({error})") from error


def read_tracks_provenance(path: Path) -> TracksProvenance:
    """Where the tracks of a file come from, without reading them. Raises InputError as `read_tracks_file` does."""
    try:
        content = json.loads(str(_read(path, ("provenance",))["provenance"]))
        return TracksProvenance(**content)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"tracks {path}: does not say where it comes from ({error!r})") from error


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"tracks {path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names if name in stored}
    except Exception as error:
        # numpy and zipfile raise a dozen unrelated types for a file that is cut off, damaged, holds objects, or is a bare array.
        raise InputError(f"tracks {path}: damaged, or not a file of tracks ({error})") from error
