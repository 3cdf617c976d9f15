"""The decoders: two that watch each other for a pair of images, and one with attention over all frames of a clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception.models.dust3r.config import DecoderConfig
from perception.models.parts.attention import Attention, CrossAttention
from perception.models.parts.blocks import Mlp, TransformerBlock, checkpointed
from perception.models.parts.rotary import Rotary

NORM_EPS = 1e-6


class CrossBlock(nn.Module):
    """Self-attention, cross-attention to a context, MLP, each on a normalised input and added: the decoder block of CroCo."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim, dim)

    def forward(self, x: Tensor, context: Tensor, rotary: Rotary, context_rotary: Rotary) -> Tensor:
        """x (batch, n, dim), context (batch, m, dim) → (batch, n, dim)."""
        x = x + self.attn(self.norm1(x), rotary)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(context), rotary, context_rotary)
        return x + self.mlp(self.norm3(x))


class PairDecoder(nn.Module):
    """Two decoders of the same form and own weights, each reading what the block before gave for the other image.

    Module names are the checkpoints' (decoder_embed, dec_blocks, dec_blocks2, dec_norm); the first and last are shared by both.
    gradient_checkpointing: set it to True, and in train mode every block computes its inner values again in the backward pass.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(config.feature_dim, config.dec_dim)
        self.dec_blocks = nn.ModuleList(CrossBlock(config.dec_dim, config.dec_heads) for _ in range(config.dec_depth))
        self.dec_blocks2 = nn.ModuleList(CrossBlock(config.dec_dim, config.dec_heads) for _ in range(config.dec_depth))
        self.dec_norm = nn.LayerNorm(config.dec_dim, eps=NORM_EPS)
        self.head_layers = config.head_layers
        self.gradient_checkpointing = False

    def decode(self, features1: Tensor, features2: Tensor, rotary1: Rotary, rotary2: Rotary) -> tuple[list[Tensor], list[Tensor]]:
        """Features (batch, n, feature_dim) and (batch, m, feature_dim) of the images of each pair → the layers that the heads read, for each.

        rotary1, rotary2: tables of the tokens' places, as wide as a decoder's attention head. Layers: see `DecoderConfig.head_layers`.
        """
        enabled = self.gradient_checkpointing and self.training
        kept1, kept2 = {0: features1}, {0: features2}
        x1, x2 = self.decoder_embed(features1), self.decoder_embed(features2)
        for number, (block1, block2) in enumerate(zip(self.dec_blocks, self.dec_blocks2, strict=True), start=1):
            x1, x2 = (
                checkpointed(block1, x1, x2, rotary1, rotary2, enabled=enabled),
                checkpointed(block2, x2, x1, rotary2, rotary1, enabled=enabled),
            )
            if number in self.head_layers:
                kept1[number], kept2[number] = x1, x2
        last = self.head_layers[-1]
        kept1[last], kept2[last] = self.dec_norm(x1), self.dec_norm(x2)
        return [kept1[layer] for layer in self.head_layers], [kept2[layer] for layer in self.head_layers]


class ClipDecoder(nn.Module):
    """One decoder whose attention covers all tokens of all frames of a clip (JOG3R's variant with full attention).

    What tells frames apart must be in the features: the rotary encoding knows places within a frame only.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.decoder_embed = nn.Linear(config.feature_dim, config.dec_dim)
        self.dec_blocks = nn.ModuleList(TransformerBlock(config.dec_dim, config.dec_heads, norm_eps=NORM_EPS) for _ in range(config.dec_depth))
        self.dec_norm = nn.LayerNorm(config.dec_dim, eps=NORM_EPS)
        self.head_layers = config.head_layers
        self.gradient_checkpointing = False

    def decode(self, features: Tensor, rotary: Rotary) -> list[Tensor]:
        """Features (batch, frames, tokens, feature_dim) → the layers that the heads read, each (batch, frames, tokens, width)."""
        num_frames = features.shape[1]
        everywhere = Rotary(*(torch.cat([table] * num_frames, dim=-2) for table in rotary))
        enabled = self.gradient_checkpointing and self.training
        kept = {0: features}
        x = self.decoder_embed(features).flatten(1, 2)
        for number, block in enumerate(self.dec_blocks, start=1):
            x = checkpointed(block, x, everywhere, enabled=enabled)
            if number in self.head_layers:
                kept[number] = x.unflatten(1, (num_frames, -1))
        kept[self.head_layers[-1]] = self.dec_norm(x).unflatten(1, (num_frames, -1))
        return [kept[layer] for layer in self.head_layers]
