"""Shards that `perception-train data shard` writes, opened clip by clip and frame by frame.

Layout and format: `perception_training.data.shards`. A stored sequence keeps its name; of several clips of one sequence each is NAME@FIRST_FRAME.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset, FrameSequence
from perception_training.data.shards import FORMAT, HEADER_BYTES, LIST_FILE, VERSION, decode_clip, padded


class ShardSequence(FrameSequence):
    """One stored clip. Only the members of the frames that are asked for are read."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self.path = path
        data = _read(path, offset, size)
        try:
            self._description: dict[str, Any] = json.loads(data)
            self._places = {}
            end = offset + padded(size)
            for suffix, length in self._description["members"]:
                self._places[suffix] = (end + HEADER_BYTES, length)
                end += HEADER_BYTES + padded(length)
            self.dataset, self.name = self._description["dataset"], self._description["sequence"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: no description of a clip at byte {offset} ({error}); the shard and its index do not belong together"
            ) from error

    @property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(frame["name"] for frame in self._description["frames"])

    @property
    def world_from_camera(self) -> NDArray[np.float64] | None:
        if "poses" not in self._description["has"]:
            return None
        unknown = np.full((4, 4), np.nan)
        poses = [frame["world_from_camera"] for frame in self._description["frames"]]
        return np.stack([unknown if pose is None else np.array(pose) for pose in poses])

    def __len__(self) -> int:
        return len(self._description["frames"])

    def load(self, frames: Sequence[int]) -> Sample:
        wrong = [frame for frame in frames if not 0 <= frame < len(self)]
        if wrong:
            raise InputError(f"{self.path}: {self.dataset}/{self.name}: frame {wrong[0]} is not there; must be in [0, {len(self)})")
        return decode_clip(self._description, lambda suffix: _read(self.path, *self._places[suffix]), frames, f"{self.path}: {self.name}")


class Shards(Dataset):
    """Webdataset shards, written by `perception-train data shard` or `perception-train render`: a folder of finished ones."""

    name = "shards"

    def _list_sequences(self) -> tuple[str, ...]:
        listing = _read_json(self.root / LIST_FILE)
        if listing.get("format") != FORMAT or listing.get("version") != VERSION:
            raise InputError(f"{self.root / LIST_FILE}: format {listing.get('format')} {listing.get('version')}: must be {FORMAT} {VERSION}")
        if not listing["complete"]:
            raise InputError(f"{self.root / LIST_FILE}: the shards are not complete; run the command that wrote them again, it goes on where it was")
        self._clips: dict[str, tuple[Path, int, int]] = {}
        for shard in listing["shards"]:
            path = self.root / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
                raise InputError(f"{path}: {found}; must have {shard['bytes']} bytes")
            for name, (offset, size) in _read_json(path.with_suffix(".index.json")).items():
                if name in self._clips:
                    raise InputError(f"{path}: clip {name} is also in {self._clips[name][0].name}; names must differ")
                self._clips[name] = (path, offset, size)
        return tuple(sorted(self._clips))

    def open_sequence(self, name: str) -> FrameSequence:
        if name not in self._clips:
            raise InputError(f"shards {self.root}: no clip {name!r}; there are {len(self._clips)}, the first is {self.sequence_names[0]}")
        return ShardSequence(*self._clips[name])


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise InputError(f"{path}: ends after {len(data)} of {size} bytes from byte {offset} on: truncated")
    return data


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); must be there beside the shards") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}; must be a mapping")
    return found
