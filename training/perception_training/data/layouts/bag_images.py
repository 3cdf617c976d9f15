"""Images of a bag by their place in its index: the messages of a topic are listed once, and decoded one by one when they are asked for."""

from __future__ import annotations

import functools
import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io import bag_messages, ros_images
from perception.io.bags import BagReader

_MAX_OPEN_BAGS, _MAX_INDICES = 4, 256
_DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")


@dataclass(frozen=True)
class ImageEntry:
    """One image message: stamp of its header, when it was recorded, and its number among those of its topic recorded at the same time."""

    stamp_ns: int
    recorded_ns: int
    repeat: int


def open_bag(path: Path) -> BagReader:
    """The bag, kept open for the next call: a few of each process at a time. Raises InputError that names it when it is damaged."""
    return _open_bag(path, _version(path), os.getpid())


@functools.lru_cache(maxsize=_MAX_OPEN_BAGS)
def _open_bag(path: Path, _version_of_path: int, _process: int) -> BagReader:
    # By process, because files that were opened before a fork share their place with the parent.
    return BagReader(path)


def _version(path: Path) -> int:
    """Changes when the bag is written anew; 0 for one that is not there."""
    try:
        return max(file.stat().st_mtime_ns for file in (path, *(path.iterdir() if path.is_dir() else ())))
    except OSError:
        return 0


def list_images(path: Path, topic: str) -> tuple[ImageEntry, ...]:
    """All images of a topic in the order of recording. Raises InputError that names the bag when it is damaged."""
    return _list_images(path, topic, _version(path))


@functools.lru_cache(maxsize=_MAX_INDICES)
def _list_images(path: Path, topic: str, _version_of_path: int) -> tuple[ImageEntry, ...]:
    repeats: Counter[int] = Counter()
    entries = []
    for raw in open_bag(path).raw_messages([topic]):
        entries.append(ImageEntry(_stamp_ns(raw.data, path, topic), raw.time_ns, repeats[raw.time_ns]))
        repeats[raw.time_ns] += 1
    return tuple(entries)


def _stamp_ns(data: bytes, path: Path, topic: str) -> int:
    """Stamp of a message that begins with a header, read from its CDR bytes (OMG DDSI-RTPS 10.2: four bytes of encapsulation, then fields)."""
    try:
        seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    except (struct.error, IndexError) as error:
        raise InputError(f"bag {path}, topic {topic}: a message of {len(data)} bytes is too short for an image") from error
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def read_message(path: Path, topic: str, entry: ImageEntry) -> Any:
    """The decoded message. Raises InputError that names the bag when it is damaged."""
    bag = open_bag(path)
    for number, raw in enumerate(bag.raw_messages([topic], between=(entry.recorded_ns, entry.recorded_ns + 1))):
        if number == entry.repeat:
            return bag.decode(raw)
    raise InputError(f"bag {path}, topic {topic}: the message recorded at {entry.recorded_ns} ns is gone; the bag has changed")


def read_bag_image(path: Path, topic: str, entry: ImageEntry) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB. Raises InputError that names bag, topic and stamp."""
    try:
        return ros_images.message_to_rgb(read_message(path, topic, entry))
    except InputError as error:
        raise InputError(f"bag {path}, topic {topic}, stamp {entry.stamp_ns} ns: {error}") from error


def read_bag_depth(path: Path, topic: str, entry: ImageEntry) -> NDArray[np.float32]:
    """(height, width) float32 metres, 0 where unknown. Raises InputError that names bag, topic and stamp."""
    try:
        return ros_images.message_to_depth(read_message(path, topic, entry))
    except InputError as error:
        raise InputError(f"bag {path}, topic {topic}, stamp {entry.stamp_ns} ns: {error}") from error


@dataclass(frozen=True)
class ImageTopic:
    """What the first message of a topic of images says: whether it is depth, its (height, width), and the frame it is seen from."""

    name: str
    is_depth: bool
    size: tuple[int, int]
    frame_id: str


def describe_topics(bag: BagReader) -> list[ImageTopic]:
    """All topics of images and of depth. One whose first message cannot be decoded counts as images: reading it will say why."""
    return [_describe(bag, name) for name in bag.find_topics(bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)]


def _describe(bag: BagReader, topic: str) -> ImageTopic:
    try:
        message = next(bag.messages([topic])).message
        if hasattr(message, "encoding"):
            return ImageTopic(topic, message.encoding in _DEPTH_ENCODINGS, (int(message.height), int(message.width)), message.header.frame_id)
        pixels = ros_images.compressed_image_to_array(message)
        return ImageTopic(topic, pixels.dtype != np.uint8, (pixels.shape[0], pixels.shape[1]), message.header.frame_id)
    except InputError:
        return ImageTopic(topic, False, (0, 0), "")
