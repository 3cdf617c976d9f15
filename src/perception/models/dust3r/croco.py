"""CroCo v2 (Weinzaepfel et al., ICCV 2023): the encoder that DUSt3R has, and the network that it was pre-trained in.

CroCo fills in the hidden patches of one image with the help of another image of the scene. Users need it for its weights, from which DUSt3R and
JOG3R's decoders are trained (`weights.start_from_croco`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception.core.errors import InputError
from perception.models.dust3r.config import DUSt3RConfig
from perception.models.dust3r.decoders import NORM_EPS, CrossBlock
from perception.models.parts.blocks import TransformerBlock, checkpointed
from perception.models.parts.patch_embedding import PatchEmbedding, patch_grid
from perception.models.parts.rotary import Rotary, grid_positions, rotary_table

_CHANNELS = 3


class Encoder(nn.Module):
    """A ViT whose only knowledge of place is the rotary encoding. Keys: patch_embed, enc_blocks, enc_norm."""

    def __init__(self, config: DUSt3RConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config.feature_dim, config.patch_px)
        self.enc_blocks = nn.ModuleList(TransformerBlock(config.feature_dim, config.enc_heads, norm_eps=NORM_EPS) for _ in range(config.enc_depth))
        self.enc_norm = nn.LayerNorm(config.feature_dim, eps=NORM_EPS)
        self._head_dim = config.feature_dim // config.enc_heads
        self._rotary_base = config.rotary_base

    def grid(self, images: Tensor, place: str) -> tuple[int, int]:
        """(rows, cols) of the patches of images (batch, 3, height, width); InputError that begins with `place` for other shapes."""
        if images.ndim != 4 or images.shape[1] != _CHANNELS or not images.shape[0]:
            raise InputError(f"{place}: images {tuple(images.shape)}; must be (batch, 3, height, width) with a batch of at least 1")
        return patch_grid(images.shape[2], images.shape[3], self.patch_embed.patch_px, place)

    def forward(self, images: Tensor, visible: Tensor | None = None, checkpointing: bool = False) -> Tensor:
        """images (batch, 3, height, width), normalised as the weights want it → features (batch, tokens, feature_dim).

        visible (batch, tokens) bool, equally many in each row: only these tokens are encoded and given back, in their order.
        checkpointing: see `checkpointed`.
        """
        rotary = rotary_table(grid_positions(*self.grid(images, "CroCo's encoder"), device=images.device), self._head_dim, self._rotary_base)
        x = self.patch_embed(images)
        if visible is not None:
            x = x[visible].unflatten(0, (len(x), -1))
            rotary = Rotary(*(table.expand(len(x), -1, -1)[visible].unflatten(0, (len(x), -1)) for table in rotary))
        for block in self.enc_blocks:
            x = checkpointed(block, x, rotary, enabled=checkpointing)
        return self.enc_norm(x)


class CroCo(nn.Module):
    """Cross-view completion. Keys: those of CroCo_V2_ViTLarge_BaseDecoder.pth, where the encoder's have no prefix (see `weights`)."""

    def __init__(self, config: DUSt3RConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dec_dim))
        self.decoder_embed = nn.Linear(config.feature_dim, config.dec_dim)
        self.dec_blocks = nn.ModuleList(CrossBlock(config.dec_dim, config.dec_heads) for _ in range(config.dec_depth))
        self.dec_norm = nn.LayerNorm(config.dec_dim, eps=NORM_EPS)
        self.prediction_head = nn.Linear(config.dec_dim, _CHANNELS * config.patch_px**2)
        self._head_dim = config.dec_dim // config.dec_heads
        self._rotary_base = config.rotary_base

    def forward(self, images: Tensor, others: Tensor, visible: Tensor) -> Tensor:
        """Patches (batch, tokens, patch² * 3) of `images`, of which only the `visible` (batch, tokens) are shown; `others` are seen whole.

        Both images (batch, 3, height, width) less the mean and deviation of ImageNet; every row of `visible` has equally many True. The published
        weights predict patches of which each has lost its own mean and deviation.
        """
        grids = [self.encoder.grid(part, "CroCo") for part in (images, others)]
        counts = visible.sum(1)
        if visible.shape != (len(images), grids[0][0] * grids[0][1]) or not bool((counts == counts[0]).all()) or not bool(counts[0] > 0):
            raise InputError(f"CroCo: visible {tuple(visible.shape)}; must be (batch, tokens), with equally many True in each row and at least one")
        tables = [rotary_table(grid_positions(*grid, device=images.device), self._head_dim, self._rotary_base) for grid in grids]
        shown, context = self.decoder_embed(self.encoder(images, visible)), self.decoder_embed(self.encoder(others))
        x = self.mask_token.to(shown.dtype).repeat(len(images), visible.shape[1], 1).masked_scatter(visible[..., None], shown)
        for block in self.dec_blocks:
            x = block(x, context, *tables)
        return self.prediction_head(self.dec_norm(x))
