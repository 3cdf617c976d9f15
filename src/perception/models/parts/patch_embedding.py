"""Images to tokens, one for each square patch."""

from __future__ import annotations

from torch import Tensor, nn

from perception.core.errors import InputError


class PatchEmbedding(nn.Module):
    """One linear map for each patch of patch_px × patch_px pixels. Key: proj, as a convolution's."""

    def __init__(self, dim: int, patch_px: int, num_channels: int = 3) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.proj = nn.Conv2d(num_channels, dim, patch_px, stride=patch_px)

    def forward(self, images: Tensor) -> Tensor:
        """images (batch, channels, height, width), sides multiples of the patch → (batch, rows * cols, dim), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


def patch_grid(height_px: int, width_px: int, patch_px: int, place: str) -> tuple[int, int]:
    """(rows, cols) of patches. InputError that begins with `place` when a side is no positive multiple of the patch."""
    if height_px < patch_px or width_px < patch_px or height_px % patch_px or width_px % patch_px:
        raise InputError(f"{place}: images of {width_px}x{height_px} px; both sides must be positive multiples of the patch, {patch_px} px")
    return height_px // patch_px, width_px // patch_px
