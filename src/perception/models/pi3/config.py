"""Sizes of the network as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Checked):
    """Sizes of encoder and decoder, which TrajVG has in common with Pi3; the defaults are those of the published checkpoint."""

    dim: Annotated[int, Range(4)] = 1024
    """Width of encoder and decoder: nothing lies between them that could change it."""
    num_heads: Annotated[int, Range(1)] = 16
    """Attention heads; dim / num_heads is a multiple of 4, as every head encodes two image axes by pairs of numbers."""
    patch_px: Annotated[int, Range(1)] = 14
    """Side of a patch."""
    image_px: Annotated[int, Range(1)] = 518
    """Side of the square images for which the encoder's position embeddings are stored; a multiple of the patch."""
    encoder_depth: Annotated[int, Range(1)] = 24
    """Blocks of the DINOv2 encoder."""
    encoder_registers: Annotated[int, Range(1)] = 4
    """Its register tokens, which it drops at its end."""
    decoder_depth: Annotated[int, Range(2)] = 36
    """Blocks of the decoder, alternately within frames and across all frames; even."""
    decoder_registers: Annotated[int, Range(1)] = 5
    """Learned tokens before the patches of each frame, the same for all frames."""
    rotary_base: Annotated[float, Range(1.0)] = 100.0
    """Base of the frequencies of the decoder's rotary positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, divisor in (("dim", 4 * self.num_heads), ("image_px", self.patch_px), ("decoder_depth", 2)):
            if getattr(self, name) % divisor:
                raise ConfigError(f"BackboneConfig.{name} = {getattr(self, name)}: must be a multiple of {divisor}")

    @property
    def num_pairs(self) -> int:
        """Pairs of a block within frames and one across them."""
        return self.decoder_depth // 2

    @property
    def feature_dim(self) -> int:
        """What the heads read of a token: the outputs of the last pair of blocks."""
        return 2 * self.dim


@dataclass(frozen=True, kw_only=True)
class Pi3Config(Checked):
    """Sizes of Pi3; the defaults are those of the published checkpoint (yyfz233/Pi3)."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Encoder and decoder."""
    head_dim: Annotated[int, Range(4)] = 1024
    """Width of the three small decoders before the heads."""
    head_num_heads: Annotated[int, Range(1)] = 16
    """Their attention heads."""
    head_depth: Annotated[int, Range(1)] = 5
    """Their blocks."""
    camera_dim: Annotated[int, Range(1)] = 512
    """Width of the camera head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim % (4 * self.head_num_heads):
            raise ConfigError(f"Pi3Config.head_dim = {self.head_dim}: must be a multiple of {4 * self.head_num_heads}, four times the heads")


def pi3_large() -> Pi3Config:
    """The published checkpoint: DINOv2 ViT-L/14 with registers, decoder of 36 blocks; 958.7 M parameters."""
    return Pi3Config()


def pi3_base() -> Pi3Config:
    """The official code's decoder "base" on ViT-B/14, heads as wide as the decoder (official: 1024). No checkpoint is public."""
    backbone = BackboneConfig(dim=768, num_heads=12, encoder_depth=12, decoder_depth=24)
    return Pi3Config(backbone=backbone, head_dim=768, head_num_heads=12)


def pi3_small() -> Pi3Config:
    """The official code's decoder "small" on ViT-S/14, heads as wide as the decoder (official: 1024). No checkpoint is public."""
    backbone = BackboneConfig(dim=384, num_heads=6, encoder_depth=12, decoder_depth=24)
    return Pi3Config(backbone=backbone, head_dim=384, head_num_heads=6)


def pi3_tiny() -> Pi3Config:
    """For tests and debug recipes: fits one scene in seconds on a CPU."""
    backbone = BackboneConfig(dim=48, num_heads=4, encoder_depth=2, decoder_depth=4, image_px=56)
    return Pi3Config(backbone=backbone, head_dim=48, head_num_heads=4, head_depth=2, camera_dim=32)
