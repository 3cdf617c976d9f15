"""How the files of a rosbag2 are opened, also when its recorder was killed: metadata.yaml missing, MCAP without its footer.

A storage has `connections` (topic, msgtype, msgcount, msgdef) and `messages(topics, between)`, which gives (topic, type name, time in ns, CDR
bytes); `between` (from, before) in ns limits the time of recording.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from perception.core.errors import InputError

log = logging.getLogger(__name__)

_END_OF_TIME_NS = 1 << 63
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a CDR payload begins with 00: no confusion possible


@dataclass(frozen=True)
class Connection:
    """One topic of one type. `definition` is the text of its ROS message definition, empty where the bag has none (or IDL)."""

    topic: str
    type_name: str
    num_messages: int
    definition: str


RawItem = tuple[str, str, int, bytes]


class Storage(Protocol):
    connections: list[Connection]

    def messages(self, topics: set[str] | None, between: tuple[int, int] | None = None) -> Iterator[RawItem]: ...

    def close(self) -> None: ...


class RosbagsStorage:
    """A bag folder with metadata.yaml, or one complete .mcap or .db3 file."""

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        self._reader.open()
        self.connections = [
            Connection(c.topic, c.msgtype, c.msgcount, c.msgdef.data if c.msgdef.format == MessageDefinitionFormat.MSG else "")
            for c in self._reader.connections
        ]

    def messages(self, topics: set[str] | None, between: tuple[int, int] | None = None) -> Iterator[RawItem]:
        start, stop = between or (None, None)
        chosen = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not chosen:  # for rosbags, no connections means all of them
            return
        for connection, time_ns, data in self._reader.messages(chosen, start, stop):
            if data[:4] == _ZSTD_MAGIC:  # message compression is written down in metadata.yaml only
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            yield connection.topic, connection.msgtype, time_ns, data

    def close(self) -> None:
        self._reader.close()


class DamagedMcap:
    """An MCAP file that ends too early: everything before the first broken record is read, in the order in which it was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        counts: Counter[int] = Counter()
        self._channels: dict[int, tuple[Channel, Schema | None]] = {}
        schemas: dict[int, Schema] = {}
        for record in self._records():
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                self._channels[record.id] = (record, schemas.get(record.schema_id))
            elif isinstance(record, Message):
                counts[record.channel_id] += 1
        self.connections = [
            Connection(channel.topic, schema.name, counts[key], schema.data.decode(errors="replace") if schema.encoding == "ros2msg" else "")
            for key, (channel, schema) in self._channels.items()
            if schema is not None
        ]

    def _records(self) -> Iterator[object]:
        with self._path.open("rb") as stream:
            try:
                yield from StreamReader(stream, record_size_limit=None).records
            except (McapError, EOFError, struct.error, ValueError, zstandard.ZstdError, RuntimeError):
                return  # the point where the recorder was stopped

    def messages(self, topics: set[str] | None, between: tuple[int, int] | None = None) -> Iterator[RawItem]:
        start, stop = between or (0, _END_OF_TIME_NS)
        for record in self._records():
            if isinstance(record, Message) and record.channel_id in self._channels and start <= record.log_time < stop:
                channel, schema = self._channels[record.channel_id]
                if schema is not None and (topics is None or channel.topic in topics):
                    yield channel.topic, schema.name, record.log_time, record.data

    def close(self) -> None:
        """Nothing is held open between reads."""


def open_storages(path: Path) -> list[Storage]:
    """The storages of a bag folder or file, in the order of their names. Raises InputError when `path` is no bag or not readable."""
    if not path.exists():
        raise InputError(f"bag {path}: no such file or folder")
    if path.is_file():
        return [_open_file(path)]
    files = sorted(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    if (path / "metadata.yaml").is_file():
        try:
            return [RosbagsStorage(path)]
        except Exception as error:  # rosbags lets errors of YAML, SQLite and zstd through
            if not files:
                raise InputError(f"bag {path}: cannot be read ({error})") from error
            log.warning("bag %s: %s; its files are read one by one", path, error)
    if not files:
        content = ", ".join(sorted(file.name for file in path.iterdir())[:5]) or "nothing"
        raise InputError(f"{path} is not a rosbag2: a bag folder holds metadata.yaml and .mcap or .db3 files, this one holds {content}")
    return [_open_file(file) for file in files]


def _open_file(path: Path) -> Storage:
    if path.suffix == ".bag":
        raise InputError(f"{path} is a ROS 1 bag: convert it with `rosbags-convert --src {path} --dst FOLDER`")
    if path.suffix not in (".mcap", ".db3"):
        raise InputError(f"{path} is not a rosbag2: must be a bag folder, an .mcap or a .db3 file")
    if path.stat().st_size == 0:
        raise InputError(f"bag {path}: the file is empty")
    try:
        return RosbagsStorage(path)
    except Exception as error:  # rosbags lets errors of struct, SQLite and zstd through
        if path.suffix == ".mcap":
            damaged = DamagedMcap(path)
            if num := sum(c.num_messages for c in damaged.connections):
                log.warning("bag %s ends too early (%s); %d messages could be read", path, error, num)
                return damaged
        raise InputError(f"bag {path}: cannot be read ({error}): truncated, or not a bag") from error
