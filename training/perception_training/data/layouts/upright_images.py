"""Photographs turned as their orientation tag says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception.core.errors import InputError
from perception.io.images import read_image

_ORIENTATION = 0x0112
"""EXIF tag of how the camera was held (Exif 2.3, table 4)."""


def read_upright_image(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB turned as the orientation tag of the file says, for sets whose annotations refer to the upright photograph.

    Raises InputError that names the file when it is missing or damaged.
    """
    pixels = read_image(path)
    try:
        with Image.open(path) as header:
            tag = header.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"image {path}: its orientation tag cannot be read ({error})") from error
    if tag in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if tag in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if tag in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
