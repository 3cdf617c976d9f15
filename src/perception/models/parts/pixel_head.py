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
        return pixels_of_patches(self.proj(tokens), rows, cols, self.patch_px)


def pixels_of_patches(values: Tensor, rows: int, cols: int, patch_px: int) -> Tensor:
    """values (batch, rows * cols, channels * patch_px²), by channel, then row, then column → (batch, channels, rows * patch_px, cols * patch_px)"""
    return functional.pixel_shuffle(values.transpose(1, 2).unflatten(2, (rows, cols)), patch_px)
