"""The dense prediction head of DPT (Ranftl et al., ICCV 2021): tokens of four layers become maps of four sizes, which are fused from coarse to fine.

What networks share is here: `reassembly_layers` and `DptFusion`; how they name the former and what follows the latter is theirs.
Facts: naver/croco models/dpt_block.py and naver/dust3r dust3r/heads/dpt_head.py ("croco"); xingy038/TrajVG trajvg/models/layers/dpt_head.py,
which is VGGT's ("vggt").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

DptForm = Literal["croco", "vggt"]

NUM_LEVELS = 4
"""Maps that are fused: cells a quarter, a half, once and twice the size of a patch."""


def reassembly_layers(dims_in: Sequence[int], dims_out: Sequence[int]) -> list[tuple[nn.Conv2d, nn.Module]]:
    """For each of the four levels what turns a token map (batch, dim_in, rows, cols) into one of dim_out channels, and what resizes that:
    to four times the size, twice, the same, and half (rounded up)."""
    assert len(dims_in) == len(dims_out) == NUM_LEVELS
    projections = [nn.Conv2d(dim_in, dim_out, 1) for dim_in, dim_out in zip(dims_in, dims_out, strict=True)]
    resizes: list[nn.Module] = [
        nn.ConvTranspose2d(dims_out[0], dims_out[0], 4, stride=4),
        nn.ConvTranspose2d(dims_out[1], dims_out[1], 2, stride=2),
        nn.Identity(),
        nn.Conv2d(dims_out[3], dims_out[3], 3, stride=2, padding=1),
    ]
    return list(zip(projections, resizes, strict=True))


class ResidualConvUnit(nn.Module):
    """ReLU, 3x3, ReLU, 3x3 beside a skip, over (batch, dim, rows, cols).

    rectified_skip: the skip carries relu(x) instead of x. VGGT's family does so: its first ReLU works in place on the tensor that is added.
    """

    def __init__(self, dim: int, rectified_skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self._rectified_skip = rectified_skip

    def forward(self, x: Tensor) -> Tensor:
        rectified = functional.relu(x)
        update = self.conv2(functional.relu(self.conv1(rectified)))
        return update + (rectified if self._rectified_skip else x)


class FusionBlock(nn.Module):
    """Add a finer map to what came from the coarser ones, and enlarge the sum."""

    def __init__(self, dim: int, rectified_skip: bool, has_finer_unit: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(dim, dim, 1)
        if has_finer_unit:
            self.resConfUnit1 = ResidualConvUnit(dim, rectified_skip)
        self.resConfUnit2 = ResidualConvUnit(dim, rectified_skip)

    def forward(self, level: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """level (batch, dim, rows, cols), coarser of the same shape (None at the coarsest level) → (batch, dim, *size)."""
        fused = level if coarser is None else coarser + self.resConfUnit1(level)
        enlarged = functional.interpolate(self.resConfUnit2(fused), size=size, mode="bilinear", align_corners=True)
        return self.out_conv(enlarged)


class DptFusion(nn.Module):
    """Four maps (batch, dims[l], rows_l, cols_l), finest first, each about half the size of the one before → (batch, dim, 2 rows_0, 2 cols_0).

    The published forms differ in these points:
    - "vggt": skips carry relu(x) (`ResidualConvUnit`); every level is enlarged to the size of the next finer one.
    - "croco" (DUSt3R): skips carry x; every level is doubled and cut to the next size, which differs where a size is odd; the coarsest level has a
      `resConfUnit1` that is never used; the first projections are stored under a second name, `layer_rn`.
    """

    def __init__(self, dims: Sequence[int], dim: int, form: DptForm) -> None:
        super().__init__()
        assert len(dims) == NUM_LEVELS
        croco = form == "croco"
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (nn.Conv2d(dim_in, dim, 3, padding=1, bias=False) for dim_in in dims)
        if croco:
            self.layer_rn = nn.ModuleList([self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn])
        self.refinenet1, self.refinenet2, self.refinenet3 = (FusionBlock(dim, not croco, has_finer_unit=True) for _ in range(NUM_LEVELS - 1))
        self.refinenet4 = FusionBlock(dim, not croco, has_finer_unit=croco)
        self._doubles = croco

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        projections = (self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn)
        maps = [projection(level) for projection, level in zip(projections, levels, strict=True)]
        blocks = (self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4)
        fused: Tensor | None = None
        for index in reversed(range(NUM_LEVELS)):
            rows, cols = maps[index].shape[-2:]
            doubled = (2 * rows, 2 * cols)
            wanted = (maps[index - 1].shape[-2], maps[index - 1].shape[-1]) if index else doubled
            fused = blocks[index](maps[index], fused, doubled if self._doubles else wanted)[..., : wanted[0], : wanted[1]]
        assert fused is not None
        return fused
