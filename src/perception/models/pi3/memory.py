"""Whether a clip fits into memory, asked before minutes are spent on it."""

from __future__ import annotations

from torch import Tensor

from perception.core.devices import free_memory_bytes
from perception.core.errors import InputError
from perception.models.pi3.config import BackboneConfig

_FLOAT_BYTES = 4
OUTPUT_CHANNELS = 7
"""Numbers of the result for each pixel: local and world points, confidence."""

_WIDTHS_AT_ONCE = 8  # widths of a token that live together in a block across frames: the sum, its norm, query, key, value, and 4 dim of the MLP
_WIDTHS_KEPT = 18  # widths that a block keeps for its backward pass
_WIDTHS_RECOMPUTED = 2  # widths that a checkpointed block keeps: its input, float32


def least_bytes(
    config: BackboneConfig,
    num_images: int,
    height_px: int,
    width_px: int,
    kept_blocks: int = 0,
    recomputes: bool = False,
    channels: int = OUTPUT_CHANNELS,
) -> int:
    """Bytes that a forward pass over num_images frames needs at the very least, beside the weights; linear in the frames.

    kept_blocks: blocks that keep values for a backward pass, only their inputs where they are checkpointed (`recomputes`) · channels: numbers for
    each pixel that all frames have at once.
    """
    num_tokens = num_images * (config.decoder_registers + height_px * width_px // config.patch_px**2)
    widths = max(_WIDTHS_AT_ONCE, kept_blocks * (_WIDTHS_RECOMPUTED if recomputes else _WIDTHS_KEPT))
    half = _FLOAT_BYTES // 2  # what autocast stores; float32 takes more
    return num_tokens * config.dim * widths * half + num_images * height_px * width_px * channels * _FLOAT_BYTES


def check_memory(config: BackboneConfig, images: Tensor, kept_blocks: int, recomputes: bool, channels: int, place: str) -> None:
    """InputError when images (batch, frames, 3, height, width) cannot fit into what is free on their device; the rest as in `least_bytes`."""
    free = free_memory_bytes(images.device)
    num_images = images.shape[0] * images.shape[1]
    needed = least_bytes(config, num_images, images.shape[-2], images.shape[-1], kept_blocks, recomputes, channels)
    if free is not None and needed > free:
        most = num_images * free // needed
        raise InputError(
            f"{place}: {num_images} frames of {images.shape[-1]}x{images.shape[-2]} px need at least {needed / 1e9:.1f} GB on {images.device}, "
            f"{free / 1e9:.1f} GB are free; give fewer (about {most}) or smaller frames"
        )
