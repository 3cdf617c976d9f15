"""Tokens to pixels by one linear map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PixelHead(nn.Module):
    """Each token gives the values of all pixels of its patch. Key: proj, with outputs ordered by channel, then row, then column in the patch."""

    def __init__(self, dim: int, num_channels: int, patch_px: int) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.proj = nn.Linear(dim, num_channels * patch_px**2)

    def forward(self, tokens: Tensor, rows: int, cols: int) -> Tensor:
        """tokens (batch, rows * cols, dim) → (batch, channels, rows * patch, cols * patch)"""
        values = self.proj(tokens).transpose(1, 2).unflatten(2, (rows, cols))
        return functional.pixel_shuffle(values, self.patch_px)
