"""Resample images and maps under an affine map of pixels: slices where the map allows, one interpolation at most otherwise."""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Border = Literal["black", "reflect"]
MapT = TypeVar("MapT", bound=np.generic)

_WHOLE_PX = 1e-4
"""A window that lies on pixel borders to this accuracy is cut out by slicing."""


def resample_image(image: NDArray[np.uint8], new_from_old: NDArray[np.float64], size: tuple[int, int], border: Border) -> NDArray[np.uint8]:
    """Image (height, width, 3) of `size` (width, height); averaged over areas where it shrinks, bilinear elsewhere."""
    window = _window(new_from_old, size, image.shape)
    if window is not None:
        return _cut_out(image, new_from_old, size, window, is_smooth=True)
    shrink = float(np.linalg.svd(new_from_old[:, :2], compute_uv=False)[-1])
    if shrink < 0.9:  # so that the bilinear step below does not alias
        smaller = (max(1, math.ceil(image.shape[1] * shrink)), max(1, math.ceil(image.shape[0] * shrink)))
        scale = np.array([image.shape[1], image.shape[0]]) / smaller
        old_from_smaller = np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])
        image, new_from_old = _resize_smooth(image, smaller), new_from_old @ old_from_smaller
    mode = cv2.BORDER_REFLECT_101 if border == "reflect" else cv2.BORDER_CONSTANT
    return np.asarray(cv2.warpAffine(image, new_from_old, size, flags=cv2.INTER_LINEAR, borderMode=mode), np.uint8)


def resample_nearest(values: NDArray[MapT], new_from_old: NDArray[np.float64], size: tuple[int, int]) -> NDArray[MapT]:
    """Map (height, width[, channels]) of `size`: each pixel takes the value of the nearest old one, 0 outside. Values are never mixed."""
    window = _window(new_from_old, size, values.shape)
    if window is not None:
        return _cut_out(values, new_from_old, size, window, is_smooth=False)
    warped = cv2.warpAffine(_as_handled(values), new_from_old, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(warped).view(values.dtype)


def remap_nearest(values: NDArray[MapT], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[MapT]:
    """Map (height, width[, channels]): the values at the old pixels nearest to (x, y), 0 outside."""
    remapped = cv2.remap(_as_handled(values), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(remapped).view(values.dtype)


def _as_handled(values: NDArray) -> NDArray:
    """The same bits as a type that OpenCV takes; nearest neighbours only copy them."""
    return values.view({np.dtype(np.int32): np.float32, np.dtype(np.bool_): np.uint8}.get(values.dtype, values.dtype))


def _window(new_from_old: NDArray[np.float64], size: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the old window that becomes the new image, when it is upright, on whole pixels and inside; else None."""
    linear = new_from_old[:, :2]
    is_upright = np.abs(linear[0, 1]) + np.abs(linear[1, 0]) < 1e-9
    is_on_its_side = np.abs(linear[0, 0]) + np.abs(linear[1, 1]) < 1e-9
    if not (is_upright or is_on_its_side):
        return None
    corners = np.array([[-0.5, -0.5], [size[0] - 0.5, size[1] - 0.5]]) - new_from_old[:, 2]
    old = np.linalg.solve(linear, corners.T).T + 0.5
    whole = np.rint(old)
    low, high = whole.min(0).astype(int), whole.max(0).astype(int)
    inside = (low >= 0).all() and high[0] <= shape[1] and high[1] <= shape[0] and (high > low).all()
    return (int(low[0]), int(low[1]), int(high[0]), int(high[1])) if inside and np.abs(old - whole).max() < _WHOLE_PX else None


def _cut_out(
    values: NDArray[MapT], new_from_old: NDArray[np.float64], size: tuple[int, int], window: tuple[int, int, int, int], *, is_smooth: bool
) -> NDArray[MapT]:
    """Slice, resize, transpose, flip."""
    left, top, right, bottom = window
    linear = new_from_old[:, :2]
    is_on_its_side = bool(linear[0, 0] == 0 or abs(linear[0, 0]) < abs(linear[0, 1]))
    part = values[top:bottom, left:right]
    wanted = size[::-1] if is_on_its_side else size
    if wanted != (right - left, bottom - top):
        part = _resize_smooth(part, wanted) if is_smooth else _resize_nearest(part, wanted)
    if is_on_its_side:
        part = part.swapaxes(0, 1)
    along_x, along_y = linear.sum(axis=1) < 0
    if along_x:
        part = part[:, ::-1]
    if along_y:
        part = part[::-1]
    return np.ascontiguousarray(part)


def _resize_smooth(image: NDArray, size: tuple[int, int]) -> NDArray:
    smaller = (min(size[0], image.shape[1]), min(size[1], image.shape[0]))
    shrunk = image if smaller == (image.shape[1], image.shape[0]) else cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return shrunk if smaller == size else cv2.resize(shrunk, size, interpolation=cv2.INTER_LINEAR)


def _resize_nearest(values: NDArray, size: tuple[int, int]) -> NDArray:
    # INTER_NEAREST takes pixel floor(x * scale), off by up to half a pixel; the exact one respects pixel centres.
    handled = _as_handled(np.ascontiguousarray(values) if values.dtype == np.bool_ else values)
    return np.asarray(cv2.resize(handled, size, interpolation=cv2.INTER_NEAREST_EXACT)).view(values.dtype)
