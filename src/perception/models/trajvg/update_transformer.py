"""The transformer that corrects all tracks of a clip. Attribute names are the checkpoint's."""

from __future__ import annotations

from torch import Tensor, nn

from perception.models.parts.attention import Attention, multi_head_attention
from perception.models.parts.blocks import Mlp
from perception.models.parts.track_transformer import TrackTransformer
from perception.models.trajvg.config import UPDATES, TrackerConfig

_MLP_RATIO = 4
_FIRST_UPDATE_STD = 0.001


class _CrossAttention(nn.Module):
    """x (batch, n, dim) attends to context (batch, m, dim)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self._num_heads = num_heads

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.proj(multi_head_attention(self.q_proj(x), self.k_proj(context), self.v_proj(context), num_heads=self._num_heads))


class _SelfAttentionBlock(nn.Module):
    """Attention is added to the normalised x, not to x itself: so was the public checkpoint trained."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.mlp = Mlp(dim, _MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + self.attn(x)
        return x + self.mlp(self.norm2(x))


class _CrossAttentionBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = _CrossAttention(dim, num_heads)
        self.mlp = Mlp(dim, _MLP_RATIO * dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.cross_attn(self.norm1(x), self.norm_context(context))
        return x + self.mlp(self.norm2(x))


class UpdateTransformer(TrackTransformer):
    """tokens (batch, points, frames, token_dim) → corrections (batch, points, frames, 4): normalised x, y, z and the logit of visibility."""

    def __init__(self, config: TrackerConfig) -> None:
        dim, num_heads = config.hidden_dim, config.num_heads
        super().__init__(
            config.token_dim,
            dim,
            num_virtual_tracks=config.num_virtual_tracks,
            time_depth=config.depth,
            space_depth=config.depth,
            self_block=lambda: _SelfAttentionBlock(dim, num_heads),
            cross_block=lambda: _CrossAttentionBlock(dim, num_heads),
        )
        self.flow_head = nn.Linear(dim, UPDATES)
        nn.init.trunc_normal_(self.flow_head.weight, std=_FIRST_UPDATE_STD)
        nn.init.zeros_(self.flow_head.bias)

    def forward(self, tokens: Tensor, checkpointing: bool = False) -> Tensor:
        return self.flow_head(self.mix(tokens, checkpointing))
