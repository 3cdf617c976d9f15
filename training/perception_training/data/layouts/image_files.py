"""What the plain image reader leaves out: sizes without decoding, ids of palette PNGs, orientation tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from perception.core.errors import InputError
from perception.io.images import read_image

_ORIENTATION = 0x0112
"""EXIF tag of how the camera was held (Exif 2.3, table 4)."""


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header of an image file. Raises InputError that names the file."""
    with _opened(path) as header:
        return header.size


def read_palette_ids(path: Path) -> NDArray[np.int32]:
    """(height, width) int32: palette indices of a PNG with palette, or values of one with a single 8-bit channel, as DAVIS, PASCAL VOC and
    YouTube-VOS store instance or class ids. Raises InputError that names the file when it is missing, damaged or in colour."""
    with _opened(path) as picture:
        if picture.mode not in ("P", "L"):
            raise InputError(f"mask {path}: has mode {picture.mode}: must have a palette (P) or one channel of 8 bit (L)")
        try:
            return np.asarray(picture, np.int32)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"mask {path}: cannot be decoded ({error}): truncated or damaged") from error


def read_upright_image(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB turned as the orientation tag of the file says, for sets whose annotations refer to the upright photograph."""
    pixels = read_image(path)
    with _opened(path) as header:
        tag = header.getexif().get(_ORIENTATION, 1)
    if tag in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(f"image {path}: cannot be decoded: truncated, or not an image") from error
    except OSError as error:
        raise InputError(f"image {path}: cannot be read ({error.strerror or 'no such file'})") from error
