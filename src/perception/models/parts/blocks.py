"""Transformer blocks with pre-normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from perception.models.parts.attention import Attention
from perception.models.parts.rotary import Rotary


class Mlp(nn.Module):
    """Two linear layers with a GELU, by its tanh form where `approximate` is "tanh"."""

    def __init__(self, num_in: int, num_hidden: int, num_out: int, approximate: str = "none") -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_in, num_hidden)
        self.fc2 = nn.Linear(num_hidden, num_out)
        self._approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """(…, num_in) → (…, num_out)"""
        return self.fc2(functional.gelu(self.fc1(x), approximate=self._approximate))


class LayerScale(nn.Module):
    """A learned factor for each channel (Touvron et al., "Going deeper with image transformers", ICCV 2021)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TransformerBlock(nn.Module):
    """x + ls1(attn(norm1(x))), then + ls2(mlp(norm2(·))). Without `layer_scale` there are no keys ls1 and ls2."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        approximate: str = "none",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias=qkv_bias, qk_norm=qk_norm)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, approximate)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, rotary: Rotary | None = None, mask: Tensor | None = None) -> Tensor:
        """x (batch, tokens, dim) → the same shape; rotary and mask as in `Attention`."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary, mask))
        return x + self.ls2(self.mlp(self.norm2(x)))


def checkpointed(block: Callable[..., Any], *args: Any, enabled: bool) -> Any:
    """block(*args); where `enabled` and gradients are recorded, what happens inside is computed again in the backward pass instead of kept.

    Networks pass `enabled=self.gradient_checkpointing and self.training`.
    """
    if enabled and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
