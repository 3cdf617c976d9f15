"""Multi-head attention, always by scaled_dot_product_attention: the matrix of all pairs is never stored."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.models.parts.rotary import Rotary, rotate


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(batch, tokens, dim) → (batch, heads, tokens, head_dim)"""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Heads apart (batch, heads, tokens, head_dim) → joined (batch, queries, dim).

    mask: broadcasts to (batch, heads, queries, keys); True where attention is allowed, or a float that is added to the scores.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """query (batch, n, dim), key and value (batch, m, dim), heads side by side → (batch, n, dim); mask as in `_attend`."""
    return _attend(_split_heads(query, num_heads), _split_heads(key, num_heads), _split_heads(value, num_heads), mask)


class Attention(nn.Module):
    """Self-attention. Keys: qkv (query, key and value one after the other, then head by head), proj; q_norm, k_norm with `qk_norm`."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True, qk_norm: bool = False, qk_norm_eps: float = 1e-5) -> None:
        super().__init__()
        assert dim % num_heads == 0
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // num_heads, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads, eps=qk_norm_eps) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rotary: Rotary | None = None, mask: Tensor | None = None) -> Tensor:
        """x (batch, tokens, dim) → (batch, tokens, dim). Queries and keys are normalised first, then rotated; mask as in `_attend`."""
        query, key, value = (_split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return self.proj(_attend(query, key, value, mask))


class CrossAttention(nn.Module):
    """Attention of a query sequence to a context. Keys: projq, projk, projv, proj (the names of CroCo)."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        assert dim % num_heads == 0
        self.num_heads = num_heads
        self.projq = nn.Linear(dim, dim, bias=qkv_bias)
        self.projk = nn.Linear(dim, dim, bias=qkv_bias)
        self.projv = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Tensor,
        context: Tensor,
        query_rotary: Rotary | None = None,
        context_rotary: Rotary | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """query (batch, n, dim), context (batch, m, dim) → (batch, n, dim); mask as in `_attend`."""
        q, k, v = (_split_heads(part, self.num_heads) for part in (self.projq(query), self.projk(context), self.projv(context)))
        if query_rotary is not None:
            q = rotate(q, query_rotary)
        if context_rotary is not None:
            k = rotate(k, context_rotary)
        return self.proj(_attend(q, k, v, mask))


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations run in the dtype of their inputs: the float32 islands of a network under autocast. Graphs that are exported
    have their number types written out, and no such contexts."""
    return nullcontext() if torch.compiler.is_exporting() else torch.autocast(device.type, enabled=False)
