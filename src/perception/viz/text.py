"""Readable text on images, in the font that ships with matplotlib (OpenCV's own knows ASCII only)."""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from perception.viz.colors import Color

_BACKGROUND = np.array([16.0, 18.0, 22.0])
_OPACITY = 0.72
_MAX_LINES = 6


@functools.cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size_px)


def draw_label(canvas: NDArray[np.uint8], text: str, anchor_px: tuple[float, float], color: Color) -> None:
    """Text on a dark box with a coloured bar at its left, in place. Its lower left corner is the anchor, moved so that all stays in the image."""
    height, width = canvas.shape[:2]
    size = max(10, round(height / 34))
    font, padding = _font(size), max(2, size // 3)
    per_line = max(8, int((width - 4 * padding) / (0.62 * size)))
    lines = textwrap.wrap(" ".join(text.split()), per_line)[:_MAX_LINES] or [""]
    line_height = round(1.25 * size)
    box_width = min(width, max(int(font.getlength(line)) for line in lines) + 4 * padding)
    box_height = min(height, len(lines) * line_height + padding)
    left = int(np.clip(anchor_px[0], 0, width - box_width))
    top = int(np.clip(anchor_px[1] - box_height, 0, height - box_height))
    box = canvas[top : top + box_height, left : left + box_width]
    box[:] = (_OPACITY * _BACKGROUND + (1.0 - _OPACITY) * box).astype(np.uint8)
    box[:, :padding] = color
    drawn = Image.fromarray(box)
    for index, line in enumerate(lines):
        ImageDraw.Draw(drawn).text((2 * padding, padding // 2 + index * line_height), line, fill=(255, 255, 255), font=font)
    box[:] = np.asarray(drawn)
