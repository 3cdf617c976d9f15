"""Encoder and decoder of Pi3, which TrajVG builds on: attention within each frame and across all frames in turn, no frame being special."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception.core.errors import InputError
from perception.models.parts.blocks import TransformerBlock, checkpointed
from perception.models.parts.patch_embedding import patch_grid
from perception.models.parts.rotary import Rotary, grid_positions, rotary_table
from perception.models.pi3.config import BackboneConfig
from perception.models.pi3.encoder import DinoEncoder
from perception.models.pi3.memory import OUTPUT_CHANNELS, check_memory

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, applied inside the network."""

TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 1 << 16}
"""Tokens of as many whole frames as are handled together where frames do not see each other: what stays in the cache, and what fills a GPU."""

_LAYER_SCALE = 0.01
_RANGE_SLACK = 0.01
_REGISTER_STD = 1e-6


class BackboneFeatures(NamedTuple):
    """What the heads read.

    tokens (batch * frames, registers + rows * cols, 2 * dim): the last two blocks' outputs, side by side · rows, cols: patches of a frame ·
    pairs: pair of blocks → its outputs in the same layout, for the pairs that were asked for.
    """

    tokens: Tensor
    rows: int
    cols: int
    pairs: dict[int, Tensor]


class Pi3Backbone(nn.Module):
    """Base class of networks on Pi3's encoder and decoder. Keys: encoder, decoder, register_token, image_mean, image_std.

    gradient_checkpointing: set it to True, and in train mode every block computes its inner values again in the backward pass.
    Under `torch.autocast` the blocks run in half precision; the sum that flows through them, norms of weights and positions stay float32.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone_config = config
        self.gradient_checkpointing = False
        self.encoder = DinoEncoder(config)
        self.decoder = nn.ModuleList(
            TransformerBlock(config.dim, config.num_heads, qk_norm=True, layer_scale=_LAYER_SCALE) for _ in range(config.decoder_depth)
        )
        self.register_token = nn.Parameter(torch.empty(1, 1, config.decoder_registers, config.dim))
        nn.init.normal_(self.register_token, std=_REGISTER_STD)
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1))

    @property
    def channels_at_once(self) -> int:
        """Numbers for each pixel that all frames have in memory at once."""
        return OUTPUT_CHANNELS

    @property
    def recomputes(self) -> bool:
        """Whether blocks are checkpointed now."""
        return self.gradient_checkpointing and self.training

    def check_images(self, images: Tensor, min_frames: int = 1) -> tuple[int, int]:
        """(rows, cols) of patches of images (batch, frames, 3, height, width); InputError when they cannot be used."""
        place = type(self).__name__
        if images.ndim != 5 or images.shape[2] != 3 or not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise InputError(f"{place}: images of shape {tuple(images.shape)}, {kind}; must be (batch, frames, 3, height, width), floating point")
        if images.shape[0] < 1 or images.shape[1] < min_frames:
            raise InputError(f"{place}: {images.shape[0]} clips of {images.shape[1]} frames; needs one clip and {min_frames} frames or more")
        grid = patch_grid(images.shape[-2], images.shape[-1], self.backbone_config.patch_px, place)
        if torch.compiler.is_exporting():
            return grid  # a graph cannot look at values
        low, high = (float(value) for value in images.detach().aminmax())
        if not (low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK):
            raise InputError(f"{place}: images with values from {low:g} to {high:g}; must be RGB in [0, 1], not normalised")
        return grid

    def frame_rotary(self, rows: int, cols: int, head_dim: int) -> Rotary:
        """Positions of one frame's tokens for heads of this length: registers at (0, 0), patches at (row, column) + 1."""
        device, count = self.register_token.device, self.backbone_config.decoder_registers
        positions = torch.cat([torch.zeros(count, 2, dtype=torch.long, device=device), grid_positions(rows, cols, 1, device)])
        return rotary_table(positions, head_dim, self.backbone_config.rotary_base)

    def features(self, images: Tensor, keep_pairs: Collection[int] = ()) -> BackboneFeatures:
        """images (batch, frames, 3, height, width), RGB in [0, 1], sides multiples of the patch.

        keep_pairs: pairs of blocks, 0 … num_pairs - 1, whose outputs are wanted too. A pair is a block within frames and the next, across them.
        """
        assert all(0 <= pair < self.backbone_config.num_pairs for pair in keep_pairs), keep_pairs
        rows, cols = self.check_images(images)
        kept_blocks = sum(all(parameter.requires_grad for parameter in block.parameters()) for block in (*self.encoder.blocks, *self.decoder))
        kept_blocks = kept_blocks if torch.is_grad_enabled() else 0
        if not torch.compiler.is_exporting():
            check_memory(self.backbone_config, images, kept_blocks, self.recomputes, self.channels_at_once, type(self).__name__)
        num_clips, num_frames = images.shape[:2]
        tokens = self._encode(images.flatten(0, 1), rows, cols)
        within = self.frame_rotary(rows, cols, self.backbone_config.dim // self.backbone_config.num_heads)
        across = Rotary(*(table.repeat(num_frames, 1) for table in within))
        last, pairs = self.backbone_config.num_pairs - 1, {}
        for pair in range(self.backbone_config.num_pairs):
            first = self._within_frames(self.decoder[2 * pair], tokens, within)
            joined = first.reshape(num_clips, -1, first.shape[-1])
            tokens = checkpointed(self.decoder[2 * pair + 1], joined, across, enabled=self.recomputes).view_as(first)
            if pair == last or pair in keep_pairs:
                pairs[pair] = torch.cat([first, tokens], dim=-1)
        return BackboneFeatures(pairs[last], rows, cols, {pair: pairs[pair] for pair in keep_pairs})

    def _encode(self, images: Tensor, rows: int, cols: int) -> Tensor:
        """images (batch, 3, height, width) → (batch, registers + rows * cols, dim), the decoder's registers first."""
        positions = self.encoder.positions(rows, cols)

        def encode(part: Tensor) -> Tensor:
            patches = self.encoder((part.float() - self.image_mean) / self.image_std, positions, self.recomputes)
            registers = self.register_token[0].expand(part.shape[0], -1, -1)
            return torch.cat([registers, patches], dim=1)

        return by_frames(encode, images, rows * cols)

    def _within_frames(self, block: nn.Module, tokens: Tensor, rotary: Rotary) -> Tensor:
        """tokens (frames, n, dim) after a block that sees each frame alone."""
        return by_frames(lambda part: checkpointed(block, part, rotary, enabled=self.recomputes), tokens, tokens.shape[1])


def by_frames(function: Callable[[Tensor], Tensor], frames: Tensor, tokens_per_frame: int) -> Tensor:
    """function of frames (batch, …), which it treats independently, applied to as many at once as `TOKENS_AT_ONCE` says."""
    parts = split_frames(frames, frames_at_once(frames.device, tokens_per_frame))
    return function(parts[0]) if len(parts) == 1 else torch.cat([function(part) for part in parts])


def split_frames(frames: Tensor, at_once: int) -> Sequence[Tensor]:
    """frames (batch, …) in parts of `at_once`; in one piece in a graph that is exported, whose number of frames is free."""
    return (frames,) if torch.compiler.is_exporting() else frames.split(at_once)


def frames_at_once(device: torch.device, tokens_per_frame: int) -> int:
    """Frames that are handled together where frames do not see each other."""
    return max(1, TOKENS_AT_ONCE.get(device.type, TOKENS_AT_ONCE["cuda"]) // tokens_per_frame)
