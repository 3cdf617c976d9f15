"""Feature maps to track in, made by DPT from the outputs of four pairs of decoder blocks.

Facts: xingy038/TrajVG trajvg/models/trajvg.py and trajvg/models/layers/dpt_head.py. Attribute names are the checkpoint's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from perception.models.parts.dpt import DptFusion, reassembly_layers
from perception.models.trajvg.config import TrajVGConfig


class _FusionWithOutput(DptFusion):
    """The fusion, and a convolution after it that the checkpoint keeps among its weights."""

    def __init__(self, dims: Sequence[int], dim: int) -> None:
        super().__init__(dims, dim, "vggt")
        self.output_conv1 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        return self.output_conv1(super().forward(levels))


class TrackFeatures(nn.Module):
    """Keys: norm, projects, resize_layers, scratch."""

    def __init__(self, config: TrajVGConfig) -> None:
        super().__init__()
        dim_in, dims = config.backbone.feature_dim, config.reassembled_dims
        self.norm = nn.LayerNorm(dim_in)
        layers = reassembly_layers([dim_in] * len(dims), dims)
        self.projects = nn.ModuleList(project for project, _ in layers)
        self.resize_layers = nn.ModuleList(resize for _, resize in layers)
        self.scratch = _FusionWithOutput(dims, config.tracker.feature_dim)
        self._released_layout = config.token_layout == "released"
        self._num_registers = config.backbone.decoder_registers
        self._cells_per_patch = config.backbone.patch_px / config.tracker.stride_px

    def map_size(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of the feature maps of frames of rows * cols patches."""
        return int(rows * self._cells_per_patch), int(cols * self._cells_per_patch)

    def forward(self, pairs: Sequence[Tensor], rows: int, cols: int) -> Tensor:
        """pairs: four tensors (frames, registers + rows * cols, dim_in), for the finest level first → (frames, feature_dim, *map_size)"""
        levels = []
        for tokens, project, resize in zip(pairs, self.projects, self.resize_layers, strict=True):
            patches = patches_as_released(tokens, self._num_registers) if self._released_layout else tokens[:, self._num_registers :]
            maps = self.norm(patches).transpose(1, 2).unflatten(2, (rows, cols))
            levels.append(resize(project(maps)))
        return functional.interpolate(self.scratch(levels), self.map_size(rows, cols), mode="bilinear", align_corners=True)


def patches_as_released(tokens: Tensor, num_registers: int) -> Tensor:
    """tokens (frames, registers + patches, dim) → (frames, patches, dim), scrambled as in the released code.

    There the memory of a frame is cut anew into dim rows instead of being transposed, the first columns are dropped as if they were the registers,
    and the rest is cut anew into patches. So a patch holds parts of several tokens, registers among them. The public checkpoint knows no other.
    """
    num_frames, num_tokens, dim = tokens.shape
    return tokens.reshape(num_frames, dim, num_tokens)[:, :, num_registers:].reshape(num_frames, num_tokens - num_registers, dim)
