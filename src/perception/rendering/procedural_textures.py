"""Pictures for the table-top scene, drawn from a seeded generator: printed packages, wood, tiles, walls."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]

_WORDS = (
    "CRUNCHY",
    "OATS",
    "Organic",
    "500 g",
    "NEW!",
    "Coffee",
    "Tomato",
    "Classic",
    "Farm",
    "No. 7",
    "Dark Roast",
    "Honey",
    "Vitamin C",
    "ORIGINAL",
    "Mill",
)
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)


def noise(rng: np.random.Generator, height: int, width: int, num_octaves: int = 6, stretch: int = 1) -> NDArray[np.float32]:
    """(height, width) smooth noise in [0, 1]: octaves of random grids, each finer and weaker; `stretch` draws it out along x."""
    total = np.zeros((height, width), np.float32)
    for octave in range(num_octaves):
        cells = 2 ** (octave + 1)
        grid = rng.random((cells + 1, max(2, cells // stretch + 1)), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def blend(share: NDArray[np.float32], low: Color, high: Color) -> NDArray[np.uint8]:
    """RGB between two colours by a map of shares in [0, 1]."""
    return np.clip(np.asarray(low, np.float32) + share[..., None] * (np.asarray(high, np.float32) - np.asarray(low, np.float32)), 0, 255).astype(
        np.uint8
    )


def random_color(rng: np.random.Generator, low: int = 20, high: int = 240) -> Color:
    """A colour with every channel in [low, high)."""
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


def printed(rng: np.random.Generator, height: int, width: int, base: Color, num_shapes: int = 26) -> NDArray[np.uint8]:
    """A printed package: a shaded ground, coloured shapes, lines of words, a picture of overlapping discs and a bar code."""
    dark: Color = (base[0] // 2, base[1] // 2, base[2] // 2)
    picture = blend(noise(rng, height, width, 5), dark, base)
    for _ in range(num_shapes):
        _draw_shape(rng, picture)
    for _ in range(5):
        _draw_word(rng, picture)
    _draw_small_print(rng, picture)
    _draw_bar_code(rng, picture)
    return picture


def _draw_shape(rng: np.random.Generator, picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    reach = int(rng.integers(width // 40 + 2, width // 7 + 3))
    color, kind = random_color(rng), rng.integers(0, 4)
    thickness = -1 if rng.random() < 0.7 else int(rng.integers(2, 6))
    if kind == 0:
        cv2.circle(picture, (x, y), reach, color, thickness, cv2.LINE_AA)
    elif kind == 1:
        cv2.rectangle(picture, (x, y), (x + reach, y + int(reach * rng.uniform(0.3, 1.6))), color, thickness, cv2.LINE_AA)
    elif kind == 2:
        corners = (np.array([x, y]) + rng.integers(-reach, reach + 1, (int(rng.integers(3, 6)), 2))).astype(np.int32)
        cv2.fillPoly(picture, [corners], color, cv2.LINE_AA)
    else:
        cv2.ellipse(picture, (x, y), (reach, max(3, reach // 2)), float(rng.uniform(0, 180)), 0, 360, color, thickness, cv2.LINE_AA)


def _draw_word(rng: np.random.Generator, picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    scale = width / 256 * float(rng.uniform(0.7, 1.7))
    where = (int(rng.integers(0, width // 3 + 1)), int(rng.integers(height // 8, height)))
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    word, color = str(rng.choice(_WORDS)), random_color(rng)
    outline = (255, 255, 255) if sum(color) < 380 else (15, 15, 15)
    cv2.putText(picture, word, where, font, scale, outline, max(3, int(5 * scale)), cv2.LINE_AA)
    cv2.putText(picture, word, where, font, scale, color, max(1, int(2 * scale)), cv2.LINE_AA)


def _draw_small_print(rng: np.random.Generator, picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    top, left = int(height * rng.uniform(0.55, 0.75)), int(width * rng.uniform(0.05, 0.5))
    panel = picture[top : top + height // 5, left : left + width // 2]
    panel[:] = (panel * 0.15 + 215).astype(np.uint8)
    for line in range(6, panel.shape[0] - 2, 9):
        x = 4
        while x < panel.shape[1] - 8:
            length = int(rng.integers(3, 16))
            cv2.line(panel, (x, line), (min(x + length, panel.shape[1] - 4), line), (40, 40, 40), 2)
            x += length + int(rng.integers(3, 7))


def _draw_bar_code(rng: np.random.Generator, picture: NDArray[np.uint8]) -> None:
    height, width = picture.shape[:2]
    bars = np.repeat(rng.integers(0, 2, 24).astype(np.uint8) * 230 + 10, max(1, width // 100))
    tall = height // 9
    left, top = int(width * rng.uniform(0.05, 0.65)), int(height * rng.uniform(0.05, 0.45))
    area = picture[top : top + tall, left : left + len(bars)]
    area[:] = bars[None, : area.shape[1], None]


def wood(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Planks along x with grain and knots of different tone."""
    grain = 0.75 * noise(rng, height, width, 8, stretch=12) + 0.25 * rng.random((height, width), np.float32)
    toned = blend(grain, (104, 66, 38), (196, 148, 98)).astype(np.float32)
    num_planks = 6
    for plank in range(num_planks):
        rows = slice(plank * height // num_planks, (plank + 1) * height // num_planks)
        toned[rows] *= rng.uniform(0.82, 1.08)
        toned[rows.start : rows.start + max(2, height // 400)] *= 0.45
    picture = np.clip(toned, 0, 255).astype(np.uint8)
    for _ in range(14):
        where = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        for ring in range(5, 0, -1):
            tone = 60 + 14 * (5 - ring)
            axes = (4 * ring * width // 700, 2 * ring * height // 700)
            cv2.ellipse(picture, where, axes, 0, 0, 360, (tone + 20, tone - 5, tone // 2), 2, cv2.LINE_AA)
    return picture


def tiles(rng: np.random.Generator, size: int, num_tiles: int = 8) -> NDArray[np.uint8]:
    """A square floor of tiles with joints."""
    shade = cv2.resize(rng.uniform(0.75, 1.0, (num_tiles, num_tiles)).astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST)
    picture = (blend(noise(rng, size, size, 7), (120, 122, 126), (176, 174, 168)) * shade[..., None]).astype(np.uint8)
    joints = np.arange(size) % (size // num_tiles) < max(2, size // 200)
    picture[joints], picture[:, joints] = 70, 70
    return picture


def wall(rng: np.random.Generator, size: int, tone: Color) -> NDArray[np.uint8]:
    """A square painted wall with a few posters and a shelf line."""
    low: Color = (int(tone[0] * 0.85), int(tone[1] * 0.85), int(tone[2] * 0.85))
    picture = blend(noise(rng, size, size, 5), low, tone)
    for _ in range(5):
        high, wide = int(size * rng.uniform(0.12, 0.25)), int(size * rng.uniform(0.1, 0.22))
        top, left = int(rng.uniform(0.15, 0.6) * size), int(rng.uniform(0.02, 0.75) * size)
        poster = printed(rng, 2 * high, 2 * wide, random_color(rng, 60), num_shapes=10)
        picture[top : top + high, left : left + wide] = cv2.resize(poster, (wide, high), interpolation=cv2.INTER_AREA)
        cv2.rectangle(picture, (left, top), (left + wide, top + high), (40, 38, 36), 2)
    shelf = int(size * 0.72)
    picture[shelf : shelf + size // 60] = (92, 70, 50)
    return picture
