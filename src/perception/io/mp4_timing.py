"""Whether the frames of an MP4 or QuickTime file follow each other at one rate: read from its tables, without decoding.

Boxes as in ISO/IEC 14496-12: a track (`trak`) says in `hdlr` that it is video, and in `stts` how many samples have which duration.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_MAX_TABLE_BYTES = 1 << 24


def num_constant_rate_frames(path: Path) -> int | None:
    """How many frames the video track has when all of them have one duration; None when they have not, or the file does not say so."""
    try:
        with path.open("rb") as stream:
            tracks = list(_video_tables(stream, 0, path.stat().st_size))
    except (OSError, struct.error):
        return None
    if len(tracks) != 1:
        return None
    # The duration of the last frame means nothing: no frame follows it.
    durations = {duration for count, duration in tracks[0][:-1]} | {duration for count, duration in tracks[0][-1:] if count > 1}
    return sum(count for count, _ in tracks[0]) if len(durations) == 1 else None


def _boxes(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of the content of each box."""
    while start + 8 <= end:
        stream.seek(start)
        size, kind = struct.unpack(">I4s", stream.read(8))
        content = start + 8
        if size == 1:
            size, content = struct.unpack(">Q", stream.read(8))[0], start + 16
        size = size or end - start
        if size < content - start or start + size > end:
            return
        yield kind, content, start + size
        start += size


def _video_tables(stream: BinaryIO, start: int, end: int) -> Iterator[list[tuple[int, int]]]:
    """(count, duration) pairs of each video track."""
    for kind, content, stop in list(_boxes(stream, start, end)):
        if kind == b"moov":
            for track, inner, inner_stop in list(_boxes(stream, content, stop)):
                if track == b"trak" and (found := dict(_leaves(stream, inner, inner_stop))).get(b"hdlr", b"")[8:12] == b"vide":
                    yield _durations(found.get(b"stts", b""))


def _leaves(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    for kind, content, stop in list(_boxes(stream, start, end)):
        if kind in _CONTAINERS:
            # `minf` has a second `hdlr`, of the data: the one of `mdia` comes first and counts.
            yield from ((name, data) for name, data in _leaves(stream, content, stop) if not (kind == b"minf" and name == b"hdlr"))
        elif kind in (b"hdlr", b"stts") and stop - content <= _MAX_TABLE_BYTES:
            stream.seek(content)
            yield kind, stream.read(stop - content)


def _durations(table: bytes) -> list[tuple[int, int]]:
    count = struct.unpack_from(">I", table, 4)[0]
    return [struct.unpack_from(">II", table, 8 + 8 * index) for index in range(count)]
