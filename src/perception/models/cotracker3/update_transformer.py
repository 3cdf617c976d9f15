"""The transformer that corrects all tracks of a window. Attribute names are the checkpoint's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.cotracker3.config import CoTracker3Config
from perception.models.parts.attention import multi_head_attention
from perception.models.parts.blocks import Mlp
from perception.models.parts.track_transformer import TrackTransformer

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
        return self.to_out(multi_head_attention(self.to_q(x), *self.to_kv(context).chunk(2, dim=-1), num_heads=self._num_heads))


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


class UpdateTransformer(TrackTransformer):
    """tokens (batch, points, time, token_dim) → corrections (batch, points, time, 4): x and y in cells, logits of visibility and confidence."""

    def __init__(self, config: CoTracker3Config) -> None:
        dim, num_heads = config.hidden_dim, config.num_heads
        super().__init__(
            config.token_dim,
            dim,
            num_virtual_tracks=config.num_virtual_tracks,
            time_depth=config.time_depth,
            space_depth=config.space_depth,
            self_block=lambda: _SelfAttentionBlock(dim, num_heads),
            cross_block=lambda: _CrossAttentionBlock(dim, num_heads),
        )
        self.flow_head = nn.Linear(dim, 2)
        self.vis_conf_head = nn.Linear(dim, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.mix(tokens)
        return torch.cat([self.flow_head(x), self.vis_conf_head(x)], dim=-1)
