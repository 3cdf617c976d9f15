"""Pictures without end: opaque shapes of all sizes heaped upon each other, each with a tone, a shading or a grain of its own.

Such "dead leaves" (Lee, Mumford and Huang, IJCV 2001) share with photographs what matters for local descriptors: edges, corners, occlusion, a spread
of contrasts, a spectrum that falls with the square of the frequency. No two are alike, which a few photographs and a bank of patterns cannot give.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.rendering.procedural_textures import blend, noise, random_color

_SMALLEST_PX = 3.0
_SHARE_OF_GRAINY = 0.35
_SHARE_OF_SHADED = 0.3
_LETTERS = "ABCDEFGHIKLMNOPRSTUVXYZabdeghnqrt0123456789&%#?+"


def collage(rng: np.random.Generator, size_px: int) -> NDArray[np.uint8]:
    """(size_px, size_px, 3) sRGB. Sizes of shapes follow a power law, from 3 px to two thirds of the picture; contrast, palette and how crowded it is
    differ from picture to picture."""
    palette = np.array([random_color(rng, 10, 250) for _ in range(int(rng.integers(3, 12)))], np.float64)
    palette = palette.mean(0) + (palette - palette.mean(0)) * rng.uniform(0.15, 1.1)
    picture = blend(noise(rng, size_px, size_px, int(rng.integers(2, 7))), _tone(rng, palette), _tone(rng, palette))
    largest = size_px * rng.uniform(0.15, 0.67)
    num = int(math.exp(rng.uniform(math.log(120), math.log(600))))
    exponent = rng.uniform(0.8, 2.0)
    for radius in np.sort(_SMALLEST_PX * (largest / _SMALLEST_PX) ** (rng.random(num) ** exponent))[::-1]:
        _put(rng, picture, float(radius) / 2, palette)
    grain = rng.normal(0, rng.uniform(0, 4), picture.shape)
    return np.asarray(np.clip(picture + grain, 0, 255), np.uint8)


def _tone(rng: np.random.Generator, palette: NDArray[np.float64]) -> tuple[int, int, int]:
    tone = np.clip(palette[rng.integers(len(palette))] + rng.normal(0, 8, 3), 0, 255)
    return int(tone[0]), int(tone[1]), int(tone[2])


def _put(rng: np.random.Generator, picture: NDArray[np.uint8], radius: float, palette: NDArray[np.float64]) -> None:
    """One shape at a random place, in place."""
    size = len(picture)
    middle = rng.uniform(-0.05 * size, 1.05 * size, 2)
    left, top = (int(max(0, value)) for value in middle - 1.5 * radius - 2)
    right, bottom = (int(min(size, value)) for value in middle + 1.5 * radius + 3)
    if right - left < 2 or bottom - top < 2:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    _draw(rng, mask, middle - (left, top), radius)
    window = picture[top:bottom, left:right]
    window[...] = _over(window, _filling(rng, window.shape[:2], palette), mask)


def _over(below: NDArray[np.uint8], above: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    share = mask[..., None].astype(np.float32) / 255
    return np.asarray(below + share * (above - below), np.uint8)


def _draw(rng: np.random.Generator, mask: NDArray[np.uint8], middle: NDArray[np.float64], radius: float) -> None:
    """A disc, an ellipse, a polygon, a stroke, a frame or a letter."""
    kind, turn = int(rng.integers(7)), rng.uniform(0, 2 * math.pi)
    place = (round(float(middle[0])), round(float(middle[1])))
    if kind == 0:
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.25, 1.0))))
        cv2.ellipse(mask, place, axes, math.degrees(turn), 0, 360, 255, -1, cv2.LINE_AA)
    elif kind == 1:
        scale = max(0.3, radius / 12)
        letter = _LETTERS[int(rng.integers(len(_LETTERS)))]
        cv2.putText(mask, letter, place, int(rng.integers(8)), scale, 255, max(1, int(scale * rng.uniform(1, 4))), cv2.LINE_AA)
    elif kind == 2:
        reach = radius * np.array([math.cos(turn), math.sin(turn)])
        ends = [tuple(int(value) for value in np.rint(middle + sign * reach)) for sign in (-1, 1)]
        cv2.line(mask, ends[0], ends[1], 255, max(1, int(radius * rng.uniform(0.03, 0.3))), cv2.LINE_AA)
    else:
        num = 4 if kind < 5 else int(rng.integers(3, 10))
        angles = turn + (np.arange(num) + (0.0 if kind == 3 else rng.uniform(-0.4, 0.4, num))) * (2 * math.pi / num)
        reach = radius * (np.ones(num) if kind == 3 else rng.uniform(0.35, 1.3, num))
        stretch = np.array([1.0, rng.uniform(0.3, 1.0)])
        corners = middle + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None] * stretch
        points = np.rint(corners * 16).astype(np.int32)
        if kind == 6 and radius > 6:
            cv2.polylines(mask, [points], True, 255, max(1, int(radius * rng.uniform(0.05, 0.25))), cv2.LINE_AA, 4)
        else:
            cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, 4)


def _filling(rng: np.random.Generator, shape: tuple[int, ...], palette: NDArray[np.float64]) -> NDArray[np.float32]:
    """(height, width, 3) of one tone, with a slope of brightness or a grain for some."""
    tone, choice = np.array(_tone(rng, palette), np.float32), rng.random()
    if choice < _SHARE_OF_GRAINY and min(shape) >= 8:
        grain = noise(rng, shape[0], shape[1], int(rng.integers(3, 7)), int(rng.integers(1, 5)))
        return np.asarray(np.clip(tone + (grain[..., None] - 0.5) * rng.uniform(20, 160), 0, 255), np.float32)
    if choice < _SHARE_OF_GRAINY + _SHARE_OF_SHADED:
        slope = rng.uniform(-60, 60, 2)
        rows, cols = np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1])
        return np.asarray(np.clip(tone + (slope[0] * rows[:, None] + slope[1] * cols)[..., None], 0, 255), np.float32)
    return np.broadcast_to(tone, (*shape, 3))
