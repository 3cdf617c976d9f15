"""Changes of colour, sharpness and noise; geometry is untouched.

The parameters are drawn once and used for all frames of a clip, or for each frame alone. Noise is fresh in every frame, as a sensor's is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range

Image = NDArray[np.uint8]
Probability = Annotated[float, Range(0.0, 1.0)]
Strength = Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True, kw_only=True)
class ColourConfig(Checked):
    """What may happen to colours; each probability is drawn on its own."""

    per_frame: bool = False
    """Draw anew for each frame instead of once for a clip."""
    jitter_probability: Probability = 0.0
    """How often brightness, contrast, saturation and hue change."""
    brightness: Strength = 0.2
    """Largest change, as a share of full scale."""
    contrast: Strength = 0.2
    """Largest change of the gain about mid-grey."""
    saturation: Strength = 0.2
    """Largest change of the gain about grey."""
    hue: Annotated[float, Range(0.0, 0.5)] = 0.02
    """Largest change, as a share of the circle of hues."""
    clahe_probability: Probability = 0.0
    """How often the lightness is equalised locally (CLAHE on 8x8 tiles)."""
    clahe_limit: Annotated[float, Range(1.0, 40.0)] = 4.0
    """Largest clip limit of CLAHE."""
    blur_probability: Probability = 0.0
    """How often the image is blurred."""
    blur_px: Annotated[float, Range(0.1, 20.0, "px")] = 1.0
    """Largest standard deviation of the blur."""
    noise_probability: Probability = 0.0
    """How often there is noise."""
    noise_levels: Annotated[float, Range(0.0, 255.0)] = 7.0
    """Largest standard deviation of the noise that every pixel has, in grey levels."""
    shot_noise_levels: Annotated[float, Range(0.0, 255.0)] = 7.0
    """Largest standard deviation, at white, of the noise that grows with the root of the brightness."""
    jpeg_probability: Probability = 0.0
    """How often the image goes through JPEG."""
    jpeg_min_quality: Annotated[int, Range(1, 100)] = 40
    """Lowest quality of that; the highest is 95."""

    @property
    def is_off(self) -> bool:
        """Whether nothing ever changes."""
        return not any(value > 0 for name, value in vars(self).items() if name.endswith("_probability"))


@dataclass(frozen=True)
class _Draw:
    """Parameters of one draw; 0 (jpeg_quality: 0) leaves that step out."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    clahe_limit: float
    blur_px: float
    noise_levels: float
    shot_noise_levels: float
    jpeg_quality: int


def change_colours(images: tuple[Image, ...], config: ColourConfig, random: np.random.Generator) -> tuple[Image, ...]:
    """All images of a sample with their colours changed."""
    if config.is_off:
        return images
    shared = None if config.per_frame else _draw(config, random)
    return tuple(_changed(image, _draw(config, random) if shared is None else shared, random) for image in images)


def _draw(config: ColourConfig, random: np.random.Generator) -> _Draw:
    happens = {name: random.random() < getattr(config, f"{name}_probability") for name in ("jitter", "clahe", "blur", "noise", "jpeg")}

    def change(strength: float) -> float:
        return float(random.uniform(-strength, strength)) * happens["jitter"]

    return _Draw(
        brightness=change(config.brightness),
        contrast=change(config.contrast),
        saturation=change(config.saturation),
        hue=change(config.hue),
        clahe_limit=float(random.uniform(1.0, config.clahe_limit)) * happens["clahe"],
        blur_px=float(random.uniform(0.1, config.blur_px)) * happens["blur"],
        noise_levels=float(random.uniform(0.0, config.noise_levels)) * happens["noise"],
        shot_noise_levels=float(random.uniform(0.0, config.shot_noise_levels)) * happens["noise"],
        jpeg_quality=int(random.integers(config.jpeg_min_quality, max(config.jpeg_min_quality, 95) + 1)) * happens["jpeg"],
    )


def _changed(image: Image, draw: _Draw, random: np.random.Generator) -> Image:
    if draw.brightness or draw.contrast:
        levels = np.arange(256, dtype=np.float64)
        table = (levels - 127.5) * (1 + draw.contrast) + 127.5 + 255 * draw.brightness
        image = cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)).astype(np.uint8, copy=False)
    if draw.saturation:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, 1 + draw.saturation, grey, -draw.saturation, 0).astype(np.uint8, copy=False)
    if draw.hue:
        image = _turned_hues(image, draw.hue)
    if draw.clahe_limit:
        image = _equalised(image, draw.clahe_limit)
    if draw.blur_px:
        image = cv2.GaussianBlur(image, (0, 0), draw.blur_px).astype(np.uint8, copy=False)
    if draw.noise_levels or draw.shot_noise_levels:
        image = _noisy(image, draw.noise_levels, draw.shot_noise_levels, random)
    if draw.jpeg_quality:
        coded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, draw.jpeg_quality))[1]
        # Red and blue are exchanged on the way in and out alike, which changes where the compression loses most but not the colours.
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return image


def _turned_hues(image: Image, share: float) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(share * 256) % 256)  # the circle is 256 levels, so that the sum wraps by itself
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL).astype(np.uint8, copy=False)


def _equalised(image: Image, limit: float) -> Image:
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(limit, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.uint8, copy=False)


def _noisy(image: Image, levels: float, shot_levels: float, random: np.random.Generator) -> Image:
    variance = (levels**2 + shot_levels**2 * np.arange(256) / 255).astype(np.float32)
    noise = random.standard_normal(image.shape, np.float32)
    noise *= np.sqrt(variance)[image]
    noise += image
    return np.clip(np.rint(noise, out=noise), 0, 255, out=noise).astype(np.uint8)
