"""The transformer that trackers correct all tracks of a clip with: attention along time, and across tracks through a few virtual ones.

CoTracker's EfficientUpdateFormer (Karaev et al., CoTracker3, 2024), whose blocks and outputs differ between networks; CoTracker3 and TrajVG share the
rest. Attribute names are the checkpoints', their misspelling of `virtual` included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from perception.models.parts.blocks import checkpointed


class TrackTransformer(nn.Module):
    """Tokens of tracks, made wider and compared with each other. What is read from the result is for those that derive from it.

    self_block makes a module (batch, n, dim) → (batch, n, dim), cross_block one that takes (x, context); time_depth is a multiple of space_depth.
    """

    def __init__(
        self,
        token_dim: int,
        dim: int,
        *,
        num_virtual_tracks: int,
        time_depth: int,
        space_depth: int,
        self_block: Callable[[], nn.Module],
        cross_block: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        assert time_depth % space_depth == 0
        self.virual_tracks = nn.Parameter(torch.randn(1, num_virtual_tracks, 1, dim))
        self.input_transform = nn.Linear(token_dim, dim)
        self.time_blocks = nn.ModuleList(self_block() for _ in range(time_depth))
        self.space_virtual_blocks = nn.ModuleList(self_block() for _ in range(space_depth))
        self.space_point2virtual_blocks = nn.ModuleList(cross_block() for _ in range(space_depth))
        self.space_virtual2point_blocks = nn.ModuleList(cross_block() for _ in range(space_depth))
        self._time_blocks_per_space_block = time_depth // space_depth

    def mix(self, tokens: Tensor, checkpointing: bool = False) -> Tensor:
        """tokens (batch, points, time, token_dim) → (batch, points, time, dim)"""
        num_batch, num_points, num_frames, _ = tokens.shape
        x = self.input_transform(tokens)
        x = torch.cat([x, self.virual_tracks.to(x.dtype).expand(num_batch, -1, num_frames, -1)], dim=1)
        for index, time_block in enumerate(self.time_blocks):
            x = checkpointed(time_block, x.flatten(0, 1), enabled=checkpointing).view_as(x)
            if index % self._time_blocks_per_space_block == 0:
                x = checkpointed(self._exchange, x, num_points, index // self._time_blocks_per_space_block, enabled=checkpointing)
        return x[:, :num_points]

    def _exchange(self, x: Tensor, num_points: int, index: int) -> Tensor:
        """x (batch, tracks, time, dim), virtual tracks last → the same shape. Within each frame virtual tracks read all tracks, then each other; then
        the tracks read them."""
        num_batch, num_tracks, num_frames, dim = x.shape
        by_frame = x.transpose(1, 2).reshape(num_batch * num_frames, num_tracks, dim)
        points, virtual = by_frame[:, :num_points], by_frame[:, num_points:]
        virtual = self.space_virtual_blocks[index](self.space_virtual2point_blocks[index](virtual, points))
        points = self.space_point2virtual_blocks[index](points, virtual)
        return torch.cat([points, virtual], dim=1).view(num_batch, num_frames, num_tracks, dim).transpose(1, 2).contiguous()
