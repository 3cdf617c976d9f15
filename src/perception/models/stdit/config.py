"""Sizes of STDiT as data, and what the released code does otherwise than one would expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StditConfig(Checked):
    """Sizes of STDiT; the defaults are those of the published 16x256x256 checkpoints of OpenSora 1.0 (STDiT-XL/2)."""

    num_frames: Annotated[int, Range(1)] = 16
    """Frames of a clip; each is one latent image."""
    height: Annotated[int, Range(1)] = 32
    """Rows of a latent image: an eighth of the image's height in px."""
    width: Annotated[int, Range(1)] = 32
    """Columns of a latent image: an eighth of the image's width in px."""
    latent_channels: Annotated[int, Range(1)] = 4
    """Channels of a latent image."""
    patch_size: Annotated[int, Range(1)] = 2
    """A token stands for patch_size x patch_size latent cells of one frame."""
    hidden_dim: Annotated[int, Range(4)] = 1152
    """Width of the transformer; a multiple of 4 and of the number of heads."""
    depth: Annotated[int, Range(1)] = 28
    """Blocks, each with spatial, temporal and caption attention."""
    num_heads: Annotated[int, Range(1)] = 16
    """Attention heads."""
    mlp_ratio: Annotated[float, Range(0.1)] = 4.0
    """Hidden width of the perceptrons, in units of hidden_dim."""
    caption_dim: Annotated[int, Range(1)] = 4096
    """Channels of a caption's tokens (T5 v1.1-XXL)."""
    num_caption_tokens: Annotated[int, Range(1)] = 120
    """Tokens of a caption."""
    caption_dropout: Annotated[float, Range(0.0, 1.0)] = 0.1
    """In training this share of captions becomes the learned empty prompt, so that guidance has something to compare with."""
    space_scale: Annotated[float, Range(0.0)] = 0.5
    """Positions within a frame are divided by this: 0.5 for 256 px, 1 for 512 px."""
    time_scale: Annotated[float, Range(0.0)] = 1.0
    """Frame numbers are divided by this."""
    temporal_input: Literal["raw", "modulated"] = "raw"
    """Temporal attention reads the tokens as they are (released), or normalised and modulated as spatial attention does."""
    temporal_positions: Literal["first_block", "every_block"] = "first_block"
    """Where frame numbers are added to the input of temporal attention: in the first block only (released), or in every block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        divisors = {"hidden_dim": (4, self.num_heads), "height": (self.patch_size,), "width": (self.patch_size,)}
        for name, numbers in divisors.items():
            for divisor in numbers:
                if getattr(self, name) % divisor:
                    raise ConfigError(f"StditConfig.{name} = {getattr(self, name)}: must be a multiple of {divisor}")
        for name in ("space_scale", "time_scale"):
            if getattr(self, name) == 0:
                raise ConfigError(f"StditConfig.{name} = 0: must be above 0")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, rows and columns."""
        return self.num_frames, self.height // self.patch_size, self.width // self.patch_size

    @property
    def output_channels(self) -> int:
        """Noise, then where its variance lies in its range."""
        return 2 * self.latent_channels


OPENSORA_16X256X256 = StditConfig()
"""OpenSora-v1-16x256x256.pth and OpenSora-v1-HQ-16x256x256.pth."""

OPENSORA_16X512X512 = StditConfig(height=64, width=64, space_scale=1.0)
"""OpenSora-v1-HQ-16x512x512.pth; scale from configs/opensora/inference/16x512x512.py at v1.0.0."""
