"""DINOv2 with registers (Oquab et al., 2023; Darcet et al., "Vision transformers need registers", ICLR 2024), as Pi3's checkpoint stores it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception.models.parts.blocks import TransformerBlock, checkpointed
from perception.models.parts.patch_embedding import PatchEmbedding
from perception.models.pi3.config import BackboneConfig
from perception.models.vit import interpolate_positions

_LAYER_SCALE = 1e-5
_POSITION_STD = 0.02
_REGISTER_STD = 1e-6


class DinoEncoder(nn.Module):
    """Images to normalised patch tokens; class and register tokens are dropped. Keys are DINOv2's, without the mask token."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        dim, side = config.dim, config.image_px // config.patch_px
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + side**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.encoder_registers, dim))
        self.patch_embed = PatchEmbedding(dim, config.patch_px)
        self.blocks = nn.ModuleList(TransformerBlock(dim, config.num_heads, layer_scale=_LAYER_SCALE) for _ in range(config.encoder_depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._num_dropped = 1 + config.encoder_registers
        self._constant_positions: dict[tuple[int, int], Tensor] = {}
        nn.init.trunc_normal_(self.pos_embed, std=_POSITION_STD)
        nn.init.normal_(self.cls_token, std=_REGISTER_STD)
        nn.init.normal_(self.register_tokens, std=_REGISTER_STD)

    def positions(self, rows: int, cols: int) -> Tensor:
        """Position embeddings of the patches, (1, rows * cols, dim), from the stored square grid."""
        if torch.compiler.is_exporting() and (rows, cols) in self._constant_positions:
            return self._constant_positions[rows, cols]
        return interpolate_positions(self.pos_embed[:, 1:], rows, cols, offset=None, antialias=True)

    def prepare(self, rows: int, cols: int) -> None:
        """Graphs that are exported from now on have the positions of this grid as a constant: no runtime resizes as torch does here."""
        with torch.no_grad():
            self._constant_positions = {(rows, cols): self.positions(rows, cols).clone()}

    def forward(self, images: Tensor, positions: Tensor, checkpointing: bool = False) -> Tensor:
        """images (batch, 3, height, width), normalised; positions of their grid → (batch, rows * cols, dim)"""
        first = (self.cls_token + self.pos_embed[:, :1]).expand(images.shape[0], -1, -1)
        registers = self.register_tokens.expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, registers, self.patch_embed(images) + positions], dim=1)
        for block in self.blocks:
            tokens = checkpointed(block, tokens, enabled=checkpointing)
        return self.norm(tokens[:, self._num_dropped :])
