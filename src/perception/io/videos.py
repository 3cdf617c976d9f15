"""Read and write video files through OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera, Frame

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")

_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".mov": "mp4v"}


class VideoReader:
    """Frames of a video file, from the start each time it is iterated.

    width, height in pixels · rate_hz frames per second · num_frames as the container says (0 when it does not).
    Raises InputError when the file is missing or is not a video.
    """

    def __init__(self, path: str | Path, camera: Camera | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"video {self.path}: no such file")
        capture = self._open()
        self.width, self.height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.rate_hz = float(capture.get(cv2.CAP_PROP_FPS)) or 30.0
        self.num_frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        is_readable = capture.read()[0]
        capture.release()
        if not is_readable:
            raise InputError(f"video {self.path}: not one frame can be decoded: truncated, or an unknown codec")
        self.camera = camera

    def __len__(self) -> int:
        return self.num_frames

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise InputError(f"video {self.path}: cannot be opened ({self.path.stat().st_size} bytes): damaged, or not a video")
        return capture

    def __iter__(self) -> Iterator[Frame]:
        """Frames in RGB; time_ns counts from the first frame, by the container's time stamps where they rise, else by the frame rate."""
        capture, last_ns = self._open(), -1
        try:
            while True:
                found, pixels = capture.read()
                if not found:
                    return
                time_ns = round(float(capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6)
                if time_ns <= last_ns:
                    time_ns = last_ns + round(1e9 / self.rate_hz) if last_ns >= 0 else 0
                image = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(image, time_ns, self.camera, source=str(self.path))
                last_ns = time_ns
        finally:
            capture.release()


class VideoWriter:
    """Writes RGB images of one size into a video file; use it as a context manager. The suffix chooses the codec."""

    def __init__(self, path: str | Path, rate_hz: float = 30.0) -> None:
        self.path, self._rate_hz = Path(path), rate_hz
        if self.path.suffix.lower() not in _CODECS:
            raise InputError(f"video {self.path}: can be written as {', '.join(_CODECS)}")
        if not rate_hz > 0:
            raise InputError(f"video rate {rate_hz} Hz: must be positive")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, image: NDArray[np.uint8]) -> None:
        """Append one (height, width, 3) uint8 RGB image."""
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*_CODECS[self.path.suffix.lower()]), self._rate_hz, size)
            self._size = size
            if not self._writer.isOpened():
                raise InputError(f"video {self.path}: cannot be written")
        if size != self._size:
            raise InputError(f"video {self.path}: image is {size[0]}x{size[1]}, the first one was {self._size[0]}x{self._size[1]}")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file. Idempotent."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
