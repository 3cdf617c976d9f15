"""Images of any size as Pi3 and TrajVG take them: one size for all, near a budget of pixels. Sizes follow yyfz/Pi3, pi3/utils/basic.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from perception.core.errors import InputError

PIXEL_BUDGET = 255_000
"""Pixels of a frame that the published networks are run with."""


def target_size(width_px: int, height_px: int, pixel_budget: int = PIXEL_BUDGET, patch_px: int = 14) -> tuple[int, int]:
    """(width, height), multiples of the patch: the largest within the budget that keep the image's aspect ratio, nearly.

    A side is at least one patch, which is the only case in which the budget may be exceeded.
    """
    if width_px < 1 or height_px < 1 or pixel_budget < 1:
        raise InputError(f"images of {width_px}x{height_px} px and a budget of {pixel_budget} px; all must be at least 1")
    scale = math.sqrt(pixel_budget / (width_px * height_px))
    width, height = width_px * scale, height_px * scale
    cols, rows = round(width / patch_px), round(height / patch_px)
    while (cols * patch_px) * (rows * patch_px) > pixel_budget:
        # The side that is too long for the aspect ratio gives way.
        if cols / rows > width / height:
            cols -= 1
        else:
            rows -= 1
    return max(1, cols) * patch_px, max(1, rows) * patch_px


def prepare_images(images: Sequence[NDArray[np.uint8]], pixel_budget: int = PIXEL_BUDGET, patch_px: int = 14) -> Tensor:
    """images, RGB (height, width, 3) each → (frames, 3, height, width) float32 in [0, 1], by Pillow's Lanczos filter.

    The first image decides the size; others are stretched to it, whatever their aspect ratio, as the official code does.
    """
    if not images:
        raise InputError("prepare_images: no images; needs at least one")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"prepare_images: image {index} has shape {image.shape}, {image.dtype}; must be (height, width, 3) RGB, uint8")
    size = target_size(images[0].shape[1], images[0].shape[0], pixel_budget, patch_px)
    resized = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for image in images])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255
