"""DUSt3R: pairs of images to point maps in the axes of the first camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception.core.errors import InputError
from perception.models.dust3r.config import DecoderConfig, DUSt3RConfig
from perception.models.dust3r.croco import Encoder
from perception.models.dust3r.decoders import PairDecoder
from perception.models.dust3r.heads import make_head, read_head
from perception.models.parts.rotary import grid_positions, rotary_table

_IMAGES_AT_ONCE = 16
_PAIRS_AT_ONCE = 8


class PairPointMaps(NamedTuple):
    """Point maps of both images of each pair, both in the axes of the first image's camera and of one common, unknown scale.

    points1, points2 (batch, height, width, 3) · confidence1, confidence2 (batch, height, width), at least 1 and without upper end.
    """

    points1: Tensor
    confidence1: Tensor
    points2: Tensor
    confidence2: Tensor


class PairHeads(PairDecoder):
    """The two decoders with a head each: features of two images to their point maps. Needs no encoder."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.downstream_head1 = make_head(config)
        self.downstream_head2 = make_head(config)
        self._head_dim = config.dec_dim // config.dec_heads
        self._rotary_base = config.rotary_base

    def point_maps(self, features1: Tensor, features2: Tensor, grid1: tuple[int, int], grid2: tuple[int, int]) -> PairPointMaps:
        """Features (batch, rows * cols, feature_dim) of first and second images, grids (rows, cols) of each → float32 point maps."""
        tables = [rotary_table(grid_positions(*grid, device=features1.device), self._head_dim, self._rotary_base) for grid in (grid1, grid2)]
        layers1, layers2 = self.decode(features1, features2, *tables)
        return PairPointMaps(*read_head(self.downstream_head1, layers1, grid1), *read_head(self.downstream_head2, layers2, grid2))


class DUSt3R(PairHeads):
    """The network. Parameter names are the checkpoints', but for the prefix `encoder` and DPT heads (see `weights`).

    Under `torch.autocast` encoder and decoders run in half precision and the heads in float32. gradient_checkpointing: set it to True, and in train
    mode every block computes its inner values again in the backward pass.
    """

    def __init__(self, config: DUSt3RConfig | None = None) -> None:
        config = config or DUSt3RConfig()
        super().__init__(config)
        self.config = config
        self.encoder = Encoder(config)
        # Stands for hidden patches in CroCo's pretext task; DUSt3R's checkpoints still carry it, unused.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dec_dim), requires_grad=False)

    def forward(self, images1: Tensor, images2: Tensor) -> PairPointMaps:
        """images1, images2 (batch, 3, height, width) in [-1, 1], sides multiples of the patch; both sizes may differ. One pair per row."""
        grid1, grid2 = self.encoder.grid(images1, "DUSt3R, first images"), self.encoder.grid(images2, "DUSt3R, second images")
        if images1.shape[0] != images2.shape[0]:
            raise InputError(f"DUSt3R: {len(images1)} first and {len(images2)} second images; must be equally many, one pair per row")
        checkpointing = self.gradient_checkpointing and self.training
        if images1.shape == images2.shape:
            features1, features2 = self.encoder(torch.cat([images1, images2]), checkpointing=checkpointing).unflatten(0, (2, -1)).unbind()
        else:
            features1, features2 = (self.encoder(images, checkpointing=checkpointing) for images in (images1, images2))
        return self.point_maps(features1, features2, grid1, grid2)

    @torch.no_grad()
    def predict_pairs(self, images: Tensor, edges: Sequence[tuple[int, int]]) -> PairPointMaps:
        """Point maps of pairs (i, j) of images (frames, 3, height, width): each image is encoded once, however many pairs it is in."""
        grid = self.encoder.grid(images, "DUSt3R")
        wrong = [edge for edge in edges if not all(0 <= index < len(images) for index in edge)]
        if not edges or wrong:
            raise InputError(f"DUSt3R: pairs {wrong or list(edges)} of {len(images)} images; at least one pair of indices of images is needed")
        features = torch.cat([self.encoder(part) for part in images.split(_IMAGES_AT_ONCE)])
        first, second = torch.tensor(edges, device=images.device).unbind(1)
        parts = [
            self.point_maps(features[i], features[j], grid, grid)
            for i, j in zip(first.split(_PAIRS_AT_ONCE), second.split(_PAIRS_AT_ONCE), strict=True)
        ]
        return PairPointMaps(*(torch.cat(values) for values in zip(*parts, strict=True)))
