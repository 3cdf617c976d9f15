"""Sizes of JOG3R as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception.models.dust3r import DecoderConfig
from perception.models.stdit import OPENSORA_16X256X256, StditConfig

LATENT_STRIDE_PX = 8
"""Pixels of the side of one latent cell (stabilityai/sd-vae-ft-ema)."""

_DECODER = DecoderConfig(feature_dim=1152, dec_depth=6)


@dataclass(frozen=True, kw_only=True)
class Jog3rConfig(Checked):
    """A video network, the block whose output is read, and the decoders that read it; the defaults are the paper's."""

    stdit: StditConfig = OPENSORA_16X256X256
    """The video network."""
    decoder: DecoderConfig = _DECODER
    """The decoders; their features are as wide as the video network, and their patches as large as its tokens."""
    feature_block: Annotated[int, Range(0)] = 25
    """Block whose output is read, counted from 0: the paper's 26th. Blocks after it serve generation alone."""
    decoders: Literal["pairs", "clip"] = "pairs"
    """pairs: two decoders for the first and one other frame; clip: one whose attention covers all frames. On a par in the paper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature_block >= self.stdit.depth:
            raise ConfigError(f"Jog3rConfig.feature_block = {self.feature_block}: must lie in [0, {self.stdit.depth - 1}], the blocks of stdit")
        if self.decoder.feature_dim != self.stdit.hidden_dim:
            raise ConfigError(f"Jog3rConfig.decoder.feature_dim = {self.decoder.feature_dim}: must be {self.stdit.hidden_dim}, stdit's hidden_dim")
        patch_px = LATENT_STRIDE_PX * self.stdit.patch_size
        if self.decoder.patch_px != patch_px:
            raise ConfigError(f"Jog3rConfig.decoder.patch_px = {self.decoder.patch_px}: must be {patch_px}, the pixels of a token of stdit")
        if self.decoders == "clip" and self.decoder.head != "linear":
            raise ConfigError(f"Jog3rConfig.decoder.head = {self.decoder.head!r}: must be 'linear' with one decoder for the clip")


JOG3R = Jog3rConfig()
"""The paper's network: clips of 16 frames of 256 x 256 px."""

JOG3R_CLIP = Jog3rConfig(decoders="clip")
"""The paper's variant with one decoder."""


def tiny(decoders: Literal["pairs", "clip"] = "pairs") -> Jog3rConfig:
    """A network of 0.2 M parameters for tests and trials: clips of 4 frames of 32 x 32 px."""
    stdit = StditConfig(num_frames=4, height=4, width=4, hidden_dim=32, depth=3, num_heads=2, caption_dim=8, num_caption_tokens=4)
    return Jog3rConfig(stdit=stdit, decoder=DecoderConfig(feature_dim=32, dec_dim=32, dec_depth=2, dec_heads=2), feature_block=1, decoders=decoders)
