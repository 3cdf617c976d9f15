"""From the backbone's tokens to what a head reads, and the camera head. All work on single frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.geometry import se3
from perception.geometry.rotation_projection import rotation_from_nine
from perception.models.parts.blocks import TransformerBlock, checkpointed
from perception.models.parts.rotary import Rotary


class HeadDecoder(nn.Module):
    """A few blocks of attention within frames between two linear maps. Keys: projects, blocks, linear_out."""

    def __init__(self, num_in: int, dim: int, num_out: int, num_heads: int, depth: int) -> None:
        super().__init__()
        self.projects = nn.Linear(num_in, dim)
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads) for _ in range(depth))
        self.linear_out = nn.Linear(dim, num_out)

    def forward(self, tokens: Tensor, rotary: Rotary, checkpointing: bool = False) -> Tensor:
        """tokens (frames, n, num_in), registers included → (frames, n, num_out)"""
        tokens = self.projects(tokens)
        for block in self.blocks:
            tokens = checkpointed(block, tokens, rotary, enabled=checkpointing)
        return self.linear_out(tokens)


class _ResidualLinears(nn.Module):
    """Three linear layers, each with a ReLU, and the input added after the last. The checkpoint calls them convolutions of 1x1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Linear(dim, dim)
        self.res_conv2 = nn.Linear(dim, dim)
        self.res_conv3 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for layer in (self.res_conv1, self.res_conv2, self.res_conv3):
            hidden = functional.relu(layer(hidden))
        return x + hidden


class CameraHead(nn.Module):
    """The pose of a frame from its patches. Keys: res_conv, more_mlps, fc_t, fc_rot."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(_ResidualLinears(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_rot = nn.Linear(dim, 9)

    def forward(self, patches: Tensor) -> Tensor:
        """patches (frames, n, dim) float32, without registers → world_from_camera (frames, 4, 4), in the scale of the predicted points."""
        return camera_pose(self.numbers(patches))

    def numbers(self, patches: Tensor) -> Tensor:
        """The same as twelve numbers (frames, 12), which `camera_pose` reads: nine of the rotation and the translation."""
        for block in self.res_conv:
            patches = block(patches)
        frame = self.more_mlps(patches.mean(dim=1))
        return torch.cat([self.fc_rot(frame), self.fc_t(frame)], dim=-1)


def camera_pose(numbers: Tensor) -> Tensor:
    """What a camera head says (…, 12) → world_from_camera (…, 4, 4). Not part of exported graphs, which have no singular value decomposition."""
    return se3.from_rotation_translation(rotation_from_nine(numbers[..., :9]), numbers[..., 9:])
