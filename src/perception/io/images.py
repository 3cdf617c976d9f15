"""Read and write images, and folders of them in natural order."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception.core.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_PALETTE = 3


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sorts frame2 before frame10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name)]


def list_images(folder: str | Path) -> list[Path]:
    """The image files of a folder in natural order. Raises InputError when there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"image folder {folder}: no such folder")
    found = sorted((path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()), key=natural_key)
    if not found:
        raise InputError(f"folder {folder} holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


def _read_bytes(path: Path) -> NDArray[np.uint8]:
    """The bytes of an image file. Raises InputError when it is missing or ends before its format's end marker."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"image {path}: cannot be read ({error.strerror or 'no such file'})") from error
    if not _is_complete(data):
        raise InputError(f"image {path}: truncated: {data.size} bytes without the end marker of its format")
    return data


def _is_complete(data: NDArray[np.uint8]) -> bool:
    """False for a JPEG or PNG that ends too early: some decoders fill what is missing with grey and say nothing.

    Files end with the marker as a rule; only where something follows it (padding, a second picture) are the segments walked.
    """
    tail = data[-12:].tobytes()
    if data[:2].tobytes() == b"\xff\xd8":
        return tail.endswith(b"\xff\xd9") or _has_jpeg_end(data.tobytes())
    if data[:8].tobytes() == _PNG_SIGNATURE:
        return tail == _PNG_END or _has_png_end(data.tobytes())
    return True


def _has_jpeg_end(data: bytes) -> bool:
    """Whether an end marker follows the start of the scan; one before it belongs to the thumbnail. Layout: ITU-T T.81, annex B."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xDA:
            return data.find(b"\xff\xd9", place) >= 0
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _has_png_end(data: bytes) -> bool:
    """Whether walking the chunks leads to IEND. Layout: W3C PNG specification, section 5."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(data):
        if data[place + 4 : place + 8] == b"IEND":
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def _decode(path: Path, flags: int) -> NDArray:
    return _decode_bytes(path, _read_bytes(path), flags)


def _decode_bytes(path: Path, data: NDArray[np.uint8], flags: int) -> NDArray:
    try:
        pixels = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    except cv2.error:  # what some decoders raise for impossible sizes
        pixels = None
    if pixels is None:
        raise InputError(f"image {path}: {data.size} bytes that cannot be decoded: truncated, damaged, or not an image")
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


def read_label_image(path: str | Path) -> NDArray[np.int32]:
    """(height, width) int32 labels as stored: 8-bit or 16-bit grey values, or the indices of a palette (not its colours).

    Raises InputError when the file is missing, damaged or has several channels.
    """
    path = Path(path)
    data = _read_bytes(path)
    kind = _png_kind(data)
    if kind is not None and kind[1] == _PNG_PALETTE:
        return _palette_indices(path, data)
    pixels = _decode_bytes(path, data, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"label image {path} has shape {pixels.shape} and type {pixels.dtype}: must have one channel of 8 or 16 bits, or a palette")
    labels = pixels.astype(np.int32)
    # Decoders stretch 1, 2 and 4 bits to the range of 8.
    return labels // (255 // (2 ** kind[0] - 1)) if kind is not None and kind[0] < 8 else labels


def _png_kind(data: NDArray[np.uint8]) -> tuple[int, int] | None:
    """Bits per channel and colour type of a PNG; None for other formats."""
    is_png = data.size > 26 and data[:8].tobytes() == _PNG_SIGNATURE
    return (int(data[24]), int(data[25])) if is_png else None


def _palette_indices(path: Path, data: NDArray[np.uint8]) -> NDArray[np.int32]:
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return np.asarray(image, np.int32)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reports broken PNG chunks as SyntaxError
        raise InputError(f"label image {path}: cannot be decoded ({error}): truncated or damaged") from error


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
