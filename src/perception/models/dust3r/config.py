"""Sizes of the networks as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Checked):
    """Sizes of the two decoders and their heads, without an encoder; the defaults are those of the published checkpoints."""

    feature_dim: Annotated[int, Range(4)] = 1024
    """Width of the features that the decoders read: the encoder's, or that of another network (1152 for blocks of OpenSora's STDiT)."""
    dec_dim: Annotated[int, Range(4)] = 768
    """Width of the decoders; a multiple of 4 times their heads."""
    dec_depth: Annotated[int, Range(1)] = 12
    """Blocks of each decoder."""
    dec_heads: Annotated[int, Range(1)] = 12
    """Attention heads of the decoders."""
    patch_px: Annotated[int, Range(1, unit="px")] = 16
    """Side of the square of pixels that one token stands for."""
    head: Literal["linear", "dpt"] = "linear"
    """linear: one layer from a token to the points of its patch; dpt: convolutions over four layers of tokens (for patches of 16 px)."""
    dpt_dim: Annotated[int, Range(2)] = 256
    """Channels of the DPT head; even."""
    dpt_layer_dims: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of the four maps that the DPT head refines, finest first."""
    rotary_base: Annotated[float, Range(1.0)] = 100.0
    """Base of the rotary position encoding's frequencies."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads(self, "dec_dim", "dec_heads")
        if self.head == "dpt" and (self.dec_depth < 4 or self.patch_px != 16):
            raise ConfigError(f"{type(self).__name__}.head = 'dpt': needs dec_depth of at least 4 (is {self.dec_depth}) and patch_px 16")
        if self.head == "dpt" and (len(self.dpt_layer_dims) != 4 or min(self.dpt_layer_dims) < 1 or self.dpt_dim % 2):
            raise ConfigError(f"{type(self).__name__}: dpt_layer_dims must be four positive numbers and dpt_dim even")

    @property
    def head_layers(self) -> tuple[int, ...]:
        """Which layers the heads read: 0 the features as they came, k what the k-th decoder block gave (the last one normalised)."""
        depth = self.dec_depth
        return (0, depth // 2, depth * 3 // 4, depth) if self.head == "dpt" else (depth,)


@dataclass(frozen=True, kw_only=True)
class DUSt3RConfig(DecoderConfig):
    """Sizes of DUSt3R: an encoder in front of the decoders. feature_dim is the encoder's width."""

    enc_depth: Annotated[int, Range(1)] = 24
    """Blocks of the encoder."""
    enc_heads: Annotated[int, Range(1)] = 16
    """Attention heads of the encoder; feature_dim is a multiple of 4 times as many."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_heads(self, "feature_dim", "enc_heads")


def _check_heads(config: DecoderConfig, width: str, heads: str) -> None:
    # Rotary encoding halves each head for the two axes and pairs components within the halves.
    divisor = 4 * getattr(config, heads)
    if getattr(config, width) % divisor:
        raise ConfigError(f"{type(config).__name__}.{width} = {getattr(config, width)}: must be a multiple of 4 x {heads} = {divisor}")


def linear() -> DUSt3RConfig:
    """DUSt3R_ViTLarge_BaseDecoder_224_linear and _512_linear, which differ in their training only. 532.3 M parameters."""
    return DUSt3RConfig()


def dpt() -> DUSt3RConfig:
    """DUSt3R_ViTLarge_BaseDecoder_512_dpt. 571.2 M parameters."""
    return DUSt3RConfig(head="dpt")


def tiny(head: Literal["linear", "dpt"] = "linear") -> DUSt3RConfig:
    """A network of 0.2 M parameters for tests and trials; no weights are published for it."""
    depth = 2 if head == "linear" else 4
    return DUSt3RConfig(
        feature_dim=48, enc_depth=2, enc_heads=4, dec_dim=32, dec_depth=depth, dec_heads=4, head=head, dpt_dim=16, dpt_layer_dims=(8, 16, 16, 16)
    )
