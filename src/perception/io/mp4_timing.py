"""Whether the frames of an MP4 or QuickTime file follow each other at one rate: read from its tables, without decoding.

Boxes as in ISO/IEC 14496-12: a track (`trak`) says in `hdlr` that it is video, in `stts` how many samples have which duration, and in `elst`
which part of them is shown; `mvhd` and `mdhd` say in what fractions of a second the film and the track count.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}
_TABLES = {b"mvhd", b"hdlr", b"mdhd", b"stts", b"elst"}
_MAX_TABLE_BYTES = 1 << 24


def num_constant_rate_frames(path: Path) -> int | None:
    """How many frames the only video track has when all of them are shown and have one duration; None when not, or when the file does not say."""
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            films = [(start, stop) for kind, start, stop in _boxes(stream, 0, size) if kind == b"moov"]
            if len(films) != 1:
                return None
            film_scale = next((_timescale(data) for kind, data in _tables(stream, *films[0]) if kind == b"mvhd"), 0)
            tracks = [dict(reversed(list(_tables(stream, start, stop)))) for kind, start, stop in _boxes(stream, *films[0]) if kind == b"trak"]
            videos = [tables for tables in tracks if tables.get(b"hdlr", b"")[8:12] == b"vide"]
            return _constant_rate_frames(videos[0], film_scale) if len(videos) == 1 else None
    except (OSError, struct.error, KeyError):
        return None


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


def _tables(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Tables anywhere below, in the order of the file; of several of a kind the first one counts (QuickTime has a second `hdlr` in `minf`)."""
    for kind, content, stop in list(_boxes(stream, start, end)):
        if kind in _CONTAINERS:
            yield from _tables(stream, content, stop)
        elif kind in _TABLES and stop - content <= _MAX_TABLE_BYTES:
            stream.seek(content)
            yield kind, stream.read(stop - content)


def _timescale(header: bytes) -> int:
    """Units per second of `mvhd` or `mdhd`, behind two dates of 4 bytes, or of 8 in version 1."""
    return int(struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0])


def _constant_rate_frames(tables: dict[bytes, bytes], film_scale: int) -> int | None:
    table, scale = tables[b"stts"], _timescale(tables[b"mdhd"])
    counts = [struct.unpack_from(">II", table, 8 + 8 * index) for index in range(struct.unpack_from(">I", table, 4)[0])]
    # The duration of the last frame means nothing: no frame follows it.
    durations = {duration for _, duration in counts[:-1]} | {duration for count, duration in counts[-1:] if count > 1}
    num_frames = sum(count for count, _ in counts)
    if len(durations) != 1 or not scale:
        return None
    frame_s = durations.pop() / scale
    return num_frames if _shown_s(tables.get(b"elst"), film_scale) > (num_frames - 0.5) * frame_s else None


def _shown_s(edits: bytes | None, film_scale: int) -> float:
    """For how long the track is shown in one go; 0 when it is cut into parts."""
    if edits is None:
        return float("inf")
    if struct.unpack_from(">I", edits, 4)[0] != 1 or not film_scale:
        return 0.0
    return float(struct.unpack_from(">Q" if edits[0] == 1 else ">I", edits, 8)[0]) / film_scale
