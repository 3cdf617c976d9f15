"""Videos and folders whose pictures show the number of their frame in bars, which survive lossy codecs."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, NUM_BARS = 128, 96, 10


def numbered_picture(number: int) -> NDArray[np.uint8]:
    """(96, 128, 3) RGB: bar b is light where bit b of the number is set; a red corner top left shows swapped channels and turned images."""
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    for bar in range(NUM_BARS):
        if number >> bar & 1:
            image[24:, 12 * bar + 2 : 12 * bar + 12] = 220
    image[:16, :32] = (230, 20, 20)
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a picture shows."""
    assert image[2:12, 4:24, 0].mean() > 180, "the red corner is missing"
    assert image[2:12, 4:24, 2].mean() < 80, "the channels are swapped"
    return sum(1 << bar for bar in range(NUM_BARS) if image[40:90, 12 * bar + 5 : 12 * bar + 9].mean() > 130)


def write_numbered_video(path: Path, num_frames: int, codec: str = "mp4v", rate_hz: float = 25.0) -> Path:
    """Write pictures 0, 1, 2, ... with a codec that this OpenCV has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate_hz, (WIDTH, HEIGHT))
    assert writer.isOpened(), f"{codec} in {path.suffix} cannot be written here"
    for number in range(num_frames):
        writer.write(numbered_picture(number)[..., ::-1])
    writer.release()
    return path


def write_uneven_video(path: Path, num_frames: int, gap_after: int, gap_frames: int) -> Path:
    """An MP4 in which one frame stays on screen `gap_frames` longer: its table of durations (`stts`, ISO/IEC 14496-12) gets a second entry.

    OpenCV writes the tables behind the pictures, so that longer tables move no picture.
    """
    write_numbered_video(path, num_frames)
    data = path.read_bytes()
    place = data.index(b"stts") - 4
    size, _, _, count, total, duration = struct.unpack_from(">I4sIIII", data, place)
    assert (count, total) == (1, num_frames)
    assert data.index(b"mdat") < data.index(b"moov") < place
    entries = [(gap_after, duration), (1, duration * (1 + gap_frames)), (num_frames - gap_after - 1, duration)]
    table = struct.pack(">4sII", b"stts", 0, len(entries)) + b"".join(struct.pack(">II", *entry) for entry in entries)
    added = len(table) + 4 - size
    changed = bytearray(data[:place] + struct.pack(">I", size + added) + table + data[place + size :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.index(box) - 4
        struct.pack_into(">I", changed, start, struct.unpack_from(">I", changed, start)[0] + added)
    path.write_bytes(changed.replace(b"edts", b"free"))  # the list of edits still has the old length, and would cut the end
    return path


def cut_in_edit_list(path: Path, num_shown: int, num_frames: int) -> None:
    """Let an MP4 say in its list of edits that only so many of its frames are shown."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    duration = struct.unpack_from(">I", data, place)[0]
    struct.pack_into(">I", data, place, duration * num_shown // num_frames)
    path.write_bytes(data)
