"""Read and write images, and folders of them in natural order."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sorts frame2 before frame10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name)]


def list_images(folder: str | Path) -> list[Path]:
    """The image files of a folder in natural order. Raises InputError when there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"image folder {folder}: no such folder")
    found = sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not found:
        raise InputError(f"folder {folder} holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


def _decode(path: Path, flags: int) -> NDArray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"image {path}: cannot be read ({error.strerror or 'no such file'})") from error
    pixels = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    if pixels is None:
        raise InputError(f"image {path}: {data.size} bytes that cannot be decoded: truncated, or not an image")
    return pixels


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB. Raises InputError when the file is missing or damaged."""
    return np.asarray(cv2.cvtColor(_decode(Path(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def read_depth_image(path: str | Path) -> NDArray[np.uint16]:
    """(height, width) uint16 as stored, usually millimetres. Raises InputError when the file is missing, damaged or not 16-bit with one channel."""
    pixels = _decode(Path(path), cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise InputError(f"depth image {path} has shape {pixels.shape} and type {pixels.dtype}: must be 16-bit with one channel")
    return pixels


def write_image(path: str | Path, image: NDArray) -> None:
    """Write (height, width, 3) uint8 RGB, (height, width) uint8 or uint16; the suffix chooses the format."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(path), pixels)
    except cv2.error as error:
        raise InputError(f"image {path}: cannot be written as {Path(path).suffix or 'a file without suffix'} ({error.err})") from error
    if not written:
        raise InputError(f"image {path}: cannot be written")
