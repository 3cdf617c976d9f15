"""Videos to be tracked: what there is below the given paths, and their frames by number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from perception.core.errors import InputError
from perception.io.images import IMAGE_SUFFIXES, list_images, read_image
from perception.io.videos import VIDEO_SUFFIXES, VideoReader
from perception_training.data.pseudo_labels.tracker import Frames, Image

MAX_MISSING_SHARE = 0.05
"""A file that gives fewer frames than its header promises by more than this is truncated; less is normal, as some formats only estimate."""


def find_videos(path: Path) -> list[Path]:
    """Video files and folders of images at or below `path`, in order of names.

    A folder with videos or folders in it is searched; one that holds images only is one video. Raises InputError when there is nothing.
    """
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(f"{path}: must be a folder, or a video ({', '.join(VIDEO_SUFFIXES)})")
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = _below(path)
    if not found:
        raise InputError(f"folder {path} holds neither videos ({', '.join(VIDEO_SUFFIXES)}) nor images ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _below(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    videos: list[Path] = []
    for entry in entries:
        if entry.is_dir():
            videos += _below(entry)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            videos.append(entry)
    if not videos and any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries):
        return [folder]
    return videos


def size_bytes(video: Path) -> int:
    """Bytes of a video file, or of the images of a folder."""
    return sum(path.stat().st_size for path in (list_images(video) if video.is_dir() else [video]))


@contextmanager
def opened_frames(video: Path) -> Iterator[Frames]:
    """The frames of a video file or of a folder of images by number.

    A video is decoded once into a temporary file, because trackers also go backwards and seeking in compressed video is not exact everywhere.
    Raises InputError that names the file when it is damaged or truncated.
    """
    if video.is_dir():
        yield _ImageFolder(video)
        return
    reader = VideoReader(video)
    with tempfile.TemporaryFile(prefix="perception-frames-") as store:
        shape = _decode(reader, store)
        frames = np.memmap(store, np.uint8, "r", shape=shape)  # type: ignore[call-overload]
        yield frames
        del frames


def _decode(reader: VideoReader, store: IO[bytes]) -> tuple[int, int, int, int]:
    count = 0
    for frame in reader:
        try:
            store.write(frame.image.tobytes())
        except OSError as error:
            raise InputError(
                f"video {reader.path}: no room for its decoded frames in {tempfile.gettempdir()} ({error.strerror}); set TMPDIR"
            ) from error
        count += 1
    if count < (1 - MAX_MISSING_SHARE) * reader.num_frames:
        raise InputError(f"video {reader.path}: {count} of {reader.num_frames} frames can be decoded: truncated or damaged")
    return count, reader.height, reader.width, 3


class _ImageFolder:
    def __init__(self, folder: Path) -> None:
        self._paths = list_images(folder)
        self._size: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, frame: int) -> Image:
        image = read_image(self._paths[frame])
        self._size = self._size or image.shape
        if image.shape != self._size:
            height, width, _ = self._size
            raise InputError(f"{self._paths[frame]} is {image.shape[1]}x{image.shape[0]}, others are {width}x{height}: all frames must have one size")
        return image
