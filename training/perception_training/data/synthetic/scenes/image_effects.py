"""What a camera does to images: drifting exposure, an open shutter, defocus, colour processing, sensor noise, JPEG. The truth is untouched.

All settings of a clip come from its seed; noise comes from its seed and the frame's index, on the device where the images lie (CPU and GPU draw
different noise). Batched, in torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, pad

from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.motions import Wave, random_wave

_DISPLAY_GAMMA = 2.2
_SHOULDER = 0.5
"""Linear radiance above which bright parts are compressed."""
_REFERENCE_WIDTH_PX = 224


@dataclass(frozen=True)
class ClipEffects:
    """Of one clip. shutter: exposure as a share of the frame interval · stops: departure of the exposure over time · defocus_px: standard
    deviation · balance: gain of red, green, blue · contrast, gamma, saturation: 1 is neutral · noise: of display values at full brightness ·
    jpeg_quality: 0 is none."""

    seed: int
    shutter: float = 0.0
    stops: Wave = Wave()
    defocus_px: float = 0.0
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    gamma: float = 1.0
    saturation: float = 1.0
    noise: float = 0.0
    jpeg_quality: int = 0


def draw_effects(config: ScenesConfig, seed: int) -> ClipEffects:
    """The effects of the clip of this seed."""
    rng = np.random.default_rng((0xEFF, seed))
    effects = config.effects
    shutter = rng.uniform(0, effects.max_shutter) * (rng.random() < effects.share_motion_blur)
    drift = rng.uniform(0, effects.max_exposure_drift) * (rng.random() < effects.share_exposure_drift)
    defocus = rng.uniform(0, effects.max_defocus) * (rng.random() < effects.share_defocus) * config.width / _REFERENCE_WIDTH_PX
    red, green, blue = 1 + rng.uniform(-0.5, 0.5, 3) * effects.max_gain
    quality = int(rng.integers(effects.min_jpeg_quality, 101))
    return ClipEffects(
        seed=seed,
        shutter=float(shutter),
        stops=random_wave(rng, 0.0, float(drift), config.duration_s),
        defocus_px=float(defocus),
        balance=(float(red), float(green), float(blue)),
        contrast=float(1 + rng.uniform(-1, 1) * effects.max_gain),
        gamma=float(np.exp(rng.uniform(-1, 1) * effects.max_gamma)),
        saturation=float(1 + rng.uniform(-1, 1) * effects.max_saturation),
        noise=float(rng.random() ** 2 * effects.max_noise),  # most cameras are clean
        jpeg_quality=quality if rng.random() < effects.share_jpeg else 0,
    )


def display_values(linear: Tensor) -> Tensor:
    """Linear radiance → [0, 1] display values: gamma 2.2 with a soft shoulder, so that highlights fade into white as they do in cameras."""
    above = (linear - _SHOULDER).clamp(min=0)
    room = 1 - _SHOULDER
    return (linear.clamp(0, _SHOULDER) + room * (1 - torch.exp(-above / room))).pow_(1 / _DISPLAY_GAMMA)


def finished(radiance: Tensor, clips: Sequence[ClipEffects], times_s: NDArray[np.float64], frames: Sequence[int]) -> Tensor:
    """Linear radiance (B, T, 3, H, W) → images (B, T, 3, H, W) uint8. times_s (B, T) · frames: index of each of the T frames in its clip."""
    gain = np.stack([2.0 ** clip.stops.at(times) for clip, times in zip(clips, times_s, strict=True)])
    linear = radiance * _per_clip(gain, radiance)
    blurred = [index for index, clip in enumerate(clips) if clip.defocus_px > 0.2]
    if blurred:
        linear[blurred] = torch.stack([_blurred(linear[index], clips[index].defocus_px) for index in blurred])
    display = _processed(display_values(linear), clips)
    for index, clip in enumerate(clips):
        if clip.noise > 0:
            for place, frame in enumerate(frames):
                display[index, place] += _noise(display[index, place], clip, frame)
    display = display.clamp_(0, 1)
    pressed = [index for index, clip in enumerate(clips) if clip.jpeg_quality]
    if pressed:
        display[pressed] = torch.stack([jpeg(display[index], clips[index].jpeg_quality) for index in pressed])
    return display.mul_(255).round_().to(torch.uint8)


def _per_clip(values: object, like: Tensor) -> Tensor:
    """Values (B,) or (B, T) as float32 that broadcast over (B, T, 3, H, W)."""
    array = np.asarray(values, np.float32)
    return torch.from_numpy(array.reshape(*array.shape, *(1,) * (5 - array.ndim))).to(like.device)


def _processed(display: Tensor, clips: Sequence[ClipEffects]) -> Tensor:
    """Balance, contrast, saturation and gamma of display values."""
    balance = torch.tensor([clip.balance for clip in clips], device=display.device)[:, None, :, None, None]
    display = display * balance
    grey = display.mean(2, keepdim=True)
    display = grey + (display - grey) * _per_clip([clip.saturation for clip in clips], display)
    display = 0.5 + (display - 0.5) * _per_clip([clip.contrast for clip in clips], display)
    return display.clamp_(0, 1).pow_(_per_clip([clip.gamma for clip in clips], display))


def _noise(display: Tensor, clip: ClipEffects, frame: int) -> Tensor:
    """(3, H, W) noise of a frame: half of its variance everywhere, half in proportion to the brightness."""
    generator = torch.Generator(display.device).manual_seed((clip.seed * 1_000_003 + frame) % (1 << 62))
    grain = torch.randn(display.shape, generator=generator, device=display.device)
    return grain * (clip.noise * (0.5 + 0.5 * display).sqrt())


def _blurred(frames: Tensor, sigma_px: float) -> Tensor:
    """(T, 3, H, W) smoothed by a Gaussian; edges are repeated."""
    reach = math.ceil(3 * sigma_px)
    offsets = torch.arange(-reach, reach + 1, device=frames.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    single = pad(frames.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    single = conv2d(conv2d(single, kernel[None, None, None]), kernel[None, None, :, None])
    return single[:, 0].view_as(frames)


_LUMA = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)
"""Quantisation of brightness at quality 50 (ITU-T T.81, table K.1)."""

_CHROMA = torch.full((8, 8), 99.0)
_CHROMA[:4, :4] = torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]], dtype=torch.float32)
"""The same for colour (table K.2)."""

_YCC_FROM_RGB = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _cosines() -> Tensor:
    """(8, 8) orthonormal cosine transform: row k is the k-th wave."""
    k, x = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    waves = torch.cos(torch.pi * (2 * x + 1) * k / 16) / 2
    waves[0] /= math.sqrt(2)
    return waves


def jpeg(frames: Tensor, quality: int) -> Tensor:
    """(T, 3, H, W) in [0, 1] after JPEG's quantisation of 8 x 8 blocks at this quality, colour at full resolution (4:4:4)."""
    height, width = frames.shape[-2:]
    padded = pad(frames, (0, -width % 8, 0, -height % 8), mode="replicate") * 255 - 128
    basis, to_ycc = _cosines().to(frames.device), _YCC_FROM_RGB.to(frames.device)
    ycc = torch.einsum("ij,tjhw->tihw", to_ycc, padded)
    blocks = ycc.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = torch.stack([_LUMA, _CHROMA, _CHROMA]).to(frames.device)
    steps = ((table * scale + 50) / 100).floor().clamp(1, 255)[:, None, None]
    waves = basis @ blocks @ basis.T
    blocks = basis.T @ ((waves / steps).round() * steps) @ basis
    back = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    rgb = torch.einsum("ij,tjhw->tihw", torch.linalg.inv(to_ycc), back)[..., :height, :width]
    return ((rgb + 128) / 255).clamp(0, 1)
