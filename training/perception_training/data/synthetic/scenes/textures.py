"""Pictures for the surfaces of procedural scenes: drawn patterns, crops of the photographs that scikit-image ships, and collages.

Patterns come from a bank of numbered pictures that is drawn once for each process; photographs are cropped anew for each scene. Either is then
varied (turned, cropped, toned). There are few enough of both to be learnt by heart; collages are always new. Pictures are sRGB,
(size, size, 3) uint8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from perception.io.images import list_images, read_image
from perception.rendering.procedural_textures import blend, noise, printed, random_color, tiles, wall, wood
from perception_training.data.synthetic.collages import collage

NUM_BANK_PICTURES = 384
TEXTURE_SIZE_PX = 256

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
"""Files in skimage/data of the wheel; the others that scikit-image lists would be downloaded."""

_MEAN_RANGE = (78.0, 178.0)
"""Mean value of a picture after toning: black or white surfaces would carry no light or no contrast."""

_DARKEST = 30
"""Darkest value after toning, a reflectance of 1 %: photographs have deep shadows, surfaces do not."""


@functools.cache
def photographs(folder: str | None = None) -> tuple[NDArray[np.uint8], ...]:
    """All photographs (height, width, 3): those of scikit-image that lie on this machine and, where a folder is given, the images in it."""
    shipped = Path(skimage.__file__).parent / "data"
    paths = [shipped / name for name in PHOTOGRAPHS if (shipped / name).exists()]
    # Pillow, because OpenCV prints a warning about the colour profile of one of them.
    pictures = tuple(np.asarray(Image.open(path).convert("RGB")) for path in paths)
    return pictures + tuple(read_image(path) for path in (list_images(folder) if folder else []))


def texture(
    rng: np.random.Generator, share_photographs: float = 0.5, share_plain: float = 0.15, share_collages: float = 0.0, folder: str | None = None
) -> NDArray[np.uint8]:
    """One picture: a photograph, a nearly plain surface, a collage or else a pattern, in these shares."""
    kind = rng.random()
    if kind < share_photographs:
        return toned(rng, photograph_crop(rng, photographs(folder)))
    if kind < share_photographs + share_plain:
        return plain(rng, TEXTURE_SIZE_PX)
    if kind < share_photographs + share_plain + share_collages:
        return toned(rng, collage(rng, TEXTURE_SIZE_PX))
    return toned(rng, turned(rng, bank_picture(int(rng.integers(NUM_BANK_PICTURES)))))


def photograph_crop(rng: np.random.Generator, pictures: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    """A random turned square of a random photograph, at least 96 pixels wide in it."""
    picture = pictures[int(rng.integers(len(pictures)))]
    shorter = min(picture.shape[:2])
    side = int(rng.uniform(min(96, shorter), shorter + 1))
    top, left = int(rng.integers(picture.shape[0] - side + 1)), int(rng.integers(picture.shape[1] - side + 1))
    crop = picture[top : top + side, left : left + side]
    shrink = side > TEXTURE_SIZE_PX
    scaled = cv2.resize(crop, (TEXTURE_SIZE_PX,) * 2, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    return _quarter_turned(rng, scaled.astype(np.uint8, copy=False))


def _quarter_turned(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(np.rot90(picture, int(rng.integers(4))))


def turned(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A crop of 60 to 100 % of a picture, mirrored or turned by quarters."""
    size = picture.shape[0]
    side = int(rng.uniform(0.6, 1.0) * size)
    top, left = rng.integers(size - side + 1, size=2)
    crop = cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_LINEAR)
    return _quarter_turned(rng, crop.astype(np.uint8, copy=False))


def toned(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with other contrast, gamma and colour balance, and a mean that is neither black nor white."""
    values = np.arange(256, dtype=np.float64) / 255
    balance = rng.uniform(0.75, 1.2, 3) if rng.random() < 0.7 else np.ones(3)
    gamma, contrast = np.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0.75, 1.15)
    order = rng.permutation(3) if rng.random() < 0.2 else np.arange(3)
    picture = cv2.transform(picture[..., order], _saturation(rng.uniform(0.25, 1.0))).astype(np.uint8, copy=False)
    means = picture[::8, ::8].reshape(-1, 3).mean(0)
    curves = ((values**gamma)[:, None] * balance * 255 - 128) * contrast + 128
    mean = curves[means.astype(int), np.arange(3)].mean()
    table = np.clip(curves + np.clip(mean, *_MEAN_RANGE) - mean, 0, 255)
    table = (_DARKEST + table * (255 - _DARKEST) / 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(picture, table), np.uint8)


def _saturation(share: float) -> NDArray[np.float64]:
    """(3, 3) matrix that draws RGB towards grey; real surfaces are rarely as colourful as random numbers."""
    return share * np.eye(3) + (1 - share) * np.full((3, 3), 1 / 3)


@functools.lru_cache(maxsize=NUM_BANK_PICTURES)
def bank_picture(index: int) -> NDArray[np.uint8]:
    """Pattern number `index` of the bank; do not write into it."""
    rng = np.random.default_rng((0x7E97, index))
    return _PATTERNS[index % len(_PATTERNS)](rng, TEXTURE_SIZE_PX)


def plain(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """One colour with a faint shade and the finest grain, as on painted walls and plastic."""
    color = (_saturation(rng.uniform(0.1, 0.8)) @ np.asarray(random_color(rng, 70, 230))).astype(np.float32)
    coarse = cv2.resize(rng.normal(0, rng.uniform(1, 7), (5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = cv2.resize(rng.normal(0, rng.uniform(0.5, 4), (size // 2, size // 2)).astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.clip(color + (coarse + grain)[..., None], 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Noise between two colours, smooth or with a hard edge, sometimes drawn out to a grain."""
    share = noise(rng, size, size, int(rng.integers(4, 8)), int(rng.choice([1, 1, 1, 4, 10])))
    if rng.random() < 0.4:
        share = np.clip((share - float(np.quantile(share, rng.uniform(0.3, 0.7)))) * rng.uniform(4, 25) + 0.5, 0, 1)
    picture = blend(share, random_color(rng), random_color(rng))
    if rng.random() < 0.5:
        fine = noise(rng, size, size, 7)[..., None] - 0.5
        picture = np.clip(picture + 70 * fine, 0, 255).astype(np.uint8)
    return picture


def checks(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A board of cells in a few colours, worn."""
    num_cells = int(rng.integers(3, 14))
    colors = np.array([random_color(rng) for _ in range(int(rng.integers(2, 5)))], np.float32)
    choice = np.add.outer(np.arange(num_cells), np.arange(num_cells)) % 2 if rng.random() < 0.4 else rng.integers(len(colors), size=(num_cells,) * 2)
    cells = cv2.resize(colors[choice] + rng.normal(0, 8, (num_cells, num_cells, 1)).astype(np.float32), (size, size), interpolation=cv2.INTER_NEAREST)
    return _worn(rng, cells.astype(np.float32, copy=False))


def stripes(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Bands of uneven width, like book spines, blinds or cloth; sometimes crossed."""
    picture = np.zeros((size, size, 3), np.float32)
    colors = [np.asarray(random_color(rng), np.float32) for _ in range(int(rng.integers(2, 7)))]
    left = 0
    while left < size:
        width = int(rng.integers(4, 30))
        picture[:, left : left + width] = colors[int(rng.integers(len(colors)))] * rng.uniform(0.8, 1.1)
        left += width
    if rng.random() < 0.4:
        picture = 0.5 * (picture + picture.transpose(1, 0, 2))
    return _worn(rng, picture)


def floor_tiles(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Tiles with joints, coloured."""
    grey = tiles(rng, size, int(rng.integers(2, 10))).astype(np.float32)
    return np.clip(grey / 150 * np.asarray(random_color(rng, 80, 220), np.float32), 0, 255).astype(np.uint8)


def boards(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Planks of wood of some tone."""
    return np.clip(wood(rng, size, size).astype(np.float32) * rng.uniform(0.6, 1.5) * rng.uniform(0.9, 1.1, 3), 0, 255).astype(np.uint8)


def package(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A printed package with shapes, words and a bar code."""
    return printed(rng, size, size, random_color(rng, 60), int(rng.integers(4, 40)))


def posters(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A painted wall with posters."""
    return wall(rng, size, random_color(rng, 120, 230))


def page(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Lines of random letters in one or two columns."""
    paper, ink = np.asarray(random_color(rng, 170, 250)), random_color(rng, 5, 110)
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = paper
    scale = float(rng.uniform(0.3, 0.8))
    letters = list("abcdefghijklmnopqrstuvwxyz      ABCDEFG0123456789.,")
    for line in range(int(30 * scale), size, int(34 * scale) + 2):
        text = "".join(rng.choice(letters, 60))
        cv2.putText(picture, text, (int(rng.integers(2, 12)), line), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1 + int(scale > 0.6), cv2.LINE_AA)
    if rng.random() < 0.5:
        gap = int(rng.uniform(0.35, 0.65) * size)
        picture[:, gap : gap + 8] = paper
    return picture


def stones(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Cells around random seeds (Voronoi), each in its own tone, with joints: paving, leaves, terrazzo."""
    num_seeds = int(rng.integers(15, 200))
    seeds = np.full((size, size), 255, np.uint8)
    rows, cols = rng.integers(size, size=(2, num_seeds))
    seeds[rows, cols] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tones = np.asarray(random_color(rng, 80, 220)) * rng.uniform(0.5, 1.3, (labels.max() + 1, 1)) + rng.normal(0, 12, (labels.max() + 1, 3))
    picture = tones[labels].astype(np.float32)
    joints = cv2.Laplacian(labels.astype(np.float32), cv2.CV_32F) != 0
    if rng.random() < 0.6:
        picture[cv2.dilate(joints.astype(np.uint8), np.ones((2, 2))) > 0] = 50
    return _worn(rng, picture - distance[..., None] * rng.uniform(-1.5, 1.5))


def spots(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Discs and flakes of many sizes on a ground, like stained cloth or speckled paint."""
    picture = blend(noise(rng, size, size, 4), random_color(rng), random_color(rng))
    colors = [random_color(rng, 10, 250) for _ in range(int(rng.integers(2, 8)))]
    for _ in range(int(rng.integers(30, 220))):
        where = (int(rng.integers(size)), int(rng.integers(size)))
        axes = (int(rng.integers(1, 4 + int(40 * rng.random() ** 4))), int(rng.integers(1, 12)))
        cv2.ellipse(picture, where, axes, float(rng.uniform(0, 180)), 0, 360, colors[int(rng.integers(len(colors)))], -1, cv2.LINE_AA)
    return picture


def _worn(rng: np.random.Generator, picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """With patches and grain laid over, so that equal cells can be told apart."""
    size = picture.shape[0]
    patches = (noise(rng, size, size, 6) - 0.5) * rng.uniform(20, 90)
    return np.clip(picture + patches[..., None], 0, 255).astype(np.uint8)


_PATTERNS: tuple[Callable[[np.random.Generator, int], NDArray[np.uint8]], ...] = (
    clouds,
    checks,
    package,
    stones,
    page,
    floor_tiles,
    boards,
    stripes,
    posters,
    clouds,
    spots,
    package,
)
