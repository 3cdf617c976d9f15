"""The transformer that corrects all tracks of a window: attention along time, and across tracks through a few virtual ones.

Attribute names are the checkpoint's, its misspelling of `virtual` included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.cotracker3.config import CoTracker3Config
from perception.models.parts.blocks import Mlp

_NORM_EPSILON = 1e-6
_MLP_RATIO = 4


class _Attention(nn.Module):
    """x (batch, n, dim) attends to context (batch, m, dim)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)
        self._num_heads = num_heads

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        key, value = self.to_kv(context).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self._num_heads, -1)).transpose(1, 2) for part in (self.to_q(x), key, value))
        return self.to_out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _SelfAttentionBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = _Attention(dim, num_heads)
        self.mlp = Mlp(dim, _MLP_RATIO * dim, dim, "tanh")

    def forward(self, x: Tensor) -> Tensor:
        normed = _normalised(x)
        x = x + self.attn(normed, normed)
        return x + self.mlp(_normalised(x))


class _CrossAttentionBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm_context = nn.LayerNorm(dim)
        self.cross_attn = _Attention(dim, num_heads)
        self.mlp = Mlp(dim, _MLP_RATIO * dim, dim, "tanh")

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.cross_attn(_normalised(x), self.norm_context(context))
        return x + self.mlp(_normalised(x))


def _normalised(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=_NORM_EPSILON)


class UpdateTransformer(nn.Module):
    """tokens (batch, points, time, token_dim) → corrections (batch, points, time, 4): x and y in cells, logits of visibility and confidence."""

    def __init__(self, config: CoTracker3Config) -> None:
        super().__init__()
        dim, num_heads = config.hidden_dim, config.num_heads
        self.virual_tracks = nn.Parameter(torch.randn(1, config.num_virtual_tracks, 1, dim))
        self.input_transform = nn.Linear(config.token_dim, dim)
        self.flow_head = nn.Linear(dim, 2)
        self.vis_conf_head = nn.Linear(dim, 2)
        self.time_blocks = nn.ModuleList(_SelfAttentionBlock(dim, num_heads) for _ in range(config.time_depth))
        self.space_virtual_blocks = nn.ModuleList(_SelfAttentionBlock(dim, num_heads) for _ in range(config.space_depth))
        self.space_point2virtual_blocks = nn.ModuleList(_CrossAttentionBlock(dim, num_heads) for _ in range(config.space_depth))
        self.space_virtual2point_blocks = nn.ModuleList(_CrossAttentionBlock(dim, num_heads) for _ in range(config.space_depth))
        self._time_blocks_per_space_block = config.time_depth // config.space_depth

    def forward(self, tokens: Tensor) -> Tensor:
        num_batch, num_points, num_frames, _ = tokens.shape
        x = self.input_transform(tokens)
        x = torch.cat([x, self.virual_tracks.to(x.dtype).expand(num_batch, -1, num_frames, -1)], dim=1)
        for index, time_block in enumerate(self.time_blocks):
            x = time_block(x.flatten(0, 1)).view_as(x)
            if index % self._time_blocks_per_space_block == 0:
                x = self._exchange(x, num_points, index // self._time_blocks_per_space_block)
        x = x[:, :num_points]
        return torch.cat([self.flow_head(x), self.vis_conf_head(x)], dim=-1)

    def _exchange(self, x: Tensor, num_points: int, index: int) -> Tensor:
        """Attention within each frame: virtual tracks read all tracks, then each other; then the tracks read them."""
        num_batch, num_tracks, num_frames, dim = x.shape
        by_frame = x.transpose(1, 2).reshape(num_batch * num_frames, num_tracks, dim)
        points, virtual = by_frame[:, :num_points], by_frame[:, num_points:]
        virtual = self.space_virtual_blocks[index](self.space_virtual2point_blocks[index](virtual, points))
        points = self.space_point2virtual_blocks[index](points, virtual)
        return torch.cat([points, virtual], dim=1).view(num_batch, num_frames, num_tracks, dim).transpose(1, 2).contiguous()
