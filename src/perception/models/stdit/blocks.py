"""The block of STDiT, and the layer after the last one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception.models.parts.attention import Attention, multi_head_attention
from perception.models.parts.blocks import Mlp
from perception.models.stdit.config import StditConfig

_NORM_EPS = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (batch, tokens, dim); shift and scale (batch, 1, dim)"""
    return x * (1 + scale) + shift


class CaptionAttention(nn.Module):
    """Attention of video tokens to the tokens of a caption. Keys: q_linear, kv_linear (keys, then values), proj."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, captions: Tensor, kept: Tensor | None) -> Tensor:
        """x (batch, tokens, dim), captions (batch, caption tokens, dim), kept (batch, 1, 1, caption tokens) bool or None → (batch, tokens, dim)"""
        if kept is not None and torch.compiler.is_exporting():
            kept = kept.expand(-1, -1, x.shape[1], -1)  # onnxruntime repeats no mask by itself
        return self.proj(multi_head_attention(self.q_linear(x), *self.kv_linear(captions).chunk(2, dim=-1), num_heads=self.num_heads, mask=kept))


class StditBlock(nn.Module):
    """Spatial attention, temporal attention, caption attention and a perceptron, all residual.

    Spatial attention and perceptron read normalised and modulated tokens and are gated, with shift, scale and gate from the diffusion step. Temporal
    attention shares the gate of the spatial one and reads the tokens as they are; caption attention has neither norm nor gate (released code).
    """

    def __init__(self, config: StditConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.config = config
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS, elementwise_affine=False)
        self.attn = Attention(dim, config.num_heads)
        self.cross_attn = CaptionAttention(dim, config.num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS, elementwise_affine=False)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), dim, approximate="tanh")
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn_temp = Attention(dim, config.num_heads)

    def forward(self, x: Tensor, captions: Tensor, step: Tensor, kept: Tensor | None, frame_positions: Tensor | None) -> Tensor:
        """x (batch, frames * cells, dim), frame by frame → the same shape.

        captions and kept as in `CaptionAttention` · step (batch, 6, dim): the diffusion step's part of shift, scale and gate of attention, then of
        the perceptron · frame_positions (1, frames, dim) or None: added to what temporal attention reads.
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.scale_shift_table + step).chunk(6, dim=1)
        num_frames = self.config.num_frames
        modulated = modulate(self.norm1(x), shift, scale)
        spatial = self.attn(modulated.unflatten(1, (num_frames, -1)).flatten(0, 1))
        x = x + gate * spatial.view_as(x)
        source = x if self.config.temporal_input == "raw" else modulate(self.norm1(x), shift, scale)
        x = x + gate * self._over_time(source, frame_positions)
        x = x + self.cross_attn(x, captions, kept)
        return x + mlp_gate * self.mlp(modulate(self.norm2(x), mlp_shift, mlp_scale))

    def _over_time(self, x: Tensor, frame_positions: Tensor | None) -> Tensor:
        """Each cell attends to the same cell in all frames; x and result (batch, frames * cells, dim)."""
        batch, num_frames = x.shape[0], self.config.num_frames
        # Of one clip `flatten` copies nothing, and on what does not lie in rows torch's linear layers take three times as long.
        tracks = x.unflatten(1, (num_frames, -1)).transpose(1, 2).flatten(0, 1).contiguous()
        if frame_positions is not None:
            tracks = tracks + frame_positions.to(tracks.dtype)
        return self.attn_temp(tracks).unflatten(0, (batch, -1)).transpose(1, 2).flatten(1, 2)


class FinalLayer(nn.Module):
    """Tokens to patches. Keys: scale_shift_table, linear."""

    def __init__(self, config: StditConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.norm_final = nn.LayerNorm(dim, eps=_NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(dim, config.patch_size**2 * config.output_channels)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """x (batch, tokens, dim), step (batch, dim) → (batch, tokens, patch² * channels); channels are innermost."""
        shift, scale = (self.scale_shift_table + step[:, None]).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))
