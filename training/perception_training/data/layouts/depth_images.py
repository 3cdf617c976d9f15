"""Depth and foreground images as data sets store them, read into metres and instance ids."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io.images import read_depth_image, read_image


def read_scaled_depth(path: Path, units_per_metre: float, size: tuple[int, int]) -> NDArray[np.float32]:
    """(height, width) float32 metres of a 16-bit image, 0 where it holds 0. size: (width, height) that it must have."""
    depth = read_depth_image(path)
    check_size(path, depth, size)
    return depth.astype(np.float32) / np.float32(units_per_metre)


def read_half_float_depth(path: Path, scale: float, valid: Path | None, size: tuple[int, int]) -> NDArray[np.float32]:
    """(height, width) float32 of a 16-bit image whose bits are float16 numbers, times `scale`; 0 where unknown, not finite or negative.

    valid: an image that is black where the depth cannot be trusted.
    """
    stored = read_depth_image(path)
    check_size(path, stored, size)
    depth = stored.view(np.float16).astype(np.float32) * np.float32(scale)
    known = np.isfinite(depth) & (depth > 0)
    if valid is not None:
        trusted = read_image(valid).max(axis=2)
        check_size(valid, trusted, size)
        known &= trusted > 0
    return np.where(known, depth, 0).astype(np.float32)


def read_foreground(path: Path, size: tuple[int, int], *, may_be_scaled: bool = False) -> NDArray[np.int32]:
    """(height, width) int32, 1 where the mask image is brighter than half. may_be_scaled: bring another size to `size` (width, height)."""
    mask = read_image(path).max(axis=2)
    if may_be_scaled:
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    check_size(path, mask, size)
    return (mask > 127).astype(np.int32)


def check_size(path: Path, image: NDArray, size: tuple[int, int]) -> None:
    """Raise InputError that names the file unless the image has this (width, height)."""
    if image.shape[:2] != size[::-1]:
        raise InputError(f"{path} is {image.shape[1]}x{image.shape[0]}: must be {size[0]}x{size[1]} like its image")
