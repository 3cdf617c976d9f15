"""Images as DUSt3R wants them: resized, cropped to whole patches, in [-1, 1] (naver/dust3r, `dust3r/utils/image.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from perception.core.errors import InputError

PATCH_PX = 16


class PreparedImage(NamedTuple):
    """image (3, height, width) in [-1, 1] · scale (x, y) and corner_px (x, y): a point x of the original image, pixel centres at integers, lies at
    (x + 0.5) * scale - 0.5 - corner_px."""

    image: Tensor
    scale: tuple[float, float]
    corner_px: tuple[int, int]


def prepare_image(image: NDArray[np.uint8], size_px: int = 512, *, square: bool = False, keep_square: bool = False) -> PreparedImage:
    """An RGB image (height, width, 3) resized and cropped around its middle.

    Usual mode (checkpoints named 512): the longer side becomes size_px, sides are cropped to multiples of 16, and a square image to 4:3 unless
    `keep_square`. With `square` (checkpoint named 224; size_px = 224): the shorter side becomes size_px, and the middle square is kept. Pillow
    resizes, by Lanczos where the image shrinks and else bicubic. Raises InputError for other arrays, or a size that is no multiple of 16.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"image of shape {image.shape} and type {image.dtype}: must be (height, width, 3) uint8, RGB")
    if size_px < PATCH_PX or size_px % PATCH_PX:
        raise InputError(f"size_px = {size_px}: must be a positive multiple of {PATCH_PX}")
    height, width = image.shape[:2]
    longer = max(height, width)
    wanted = round(size_px * max(width / height, height / width)) if square else size_px
    size = (round(width * wanted / longer), round(height * wanted / longer))
    kind = Image.Resampling.LANCZOS if longer > wanted else Image.Resampling.BICUBIC
    if min(size) < PATCH_PX:
        raise InputError(f"image of {width}x{height} px: too narrow; the shorter side must be at least {PATCH_PX} px of {wanted}")
    resized = Image.fromarray(image).resize(size, kind)
    left, top, right, bottom = _crop(*size, square=square, keep_square=keep_square)
    pixels = np.asarray(resized.crop((left, top, right, bottom)), np.float32)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 255 * 2 - 1
    return PreparedImage(tensor, (size[0] / width, size[1] / height), (left, top))


def prepare_images(images: Sequence[NDArray[np.uint8]], size_px: int = 512, *, square: bool = False, keep_square: bool = False) -> Tensor:
    """(images, 3, height, width) of images that come out at one size; see `prepare_image`. Raises InputError where sizes differ or there is none."""
    prepared = [prepare_image(image, size_px, square=square, keep_square=keep_square).image for image in images]
    sizes = sorted({(tensor.shape[2], tensor.shape[1]) for tensor in prepared})
    if len(sizes) != 1:
        raise InputError(f"{len(prepared)} images come out at sizes {sizes}; must be images of one shape (pairs of other shapes: prepare_image each)")
    return torch.stack(prepared)


def _crop(width: int, height: int, *, square: bool, keep_square: bool) -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge."""
    x, y = width // 2, height // 2
    if square:
        half = min(x, y)
        return x - half, y - half, x + half, y + half
    half_width, half_height = 2 * x // PATCH_PX * PATCH_PX // 2, 2 * y // PATCH_PX * PATCH_PX // 2
    if width == height and not keep_square:
        # Whole patches also where 4:3 of the side gives none; the official sizes need no rounding.
        half_height = 3 * half_width // 4 // (PATCH_PX // 2) * (PATCH_PX // 2)
    return x - half_width, y - half_height, x + half_width, y + half_height
