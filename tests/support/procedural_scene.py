"""A procedural room of known geometry, with every kind of primitive, some of them moving, under two lights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.scene import Kind, SceneBatch
from perception_training.data.synthetic.scenes.texture_stack import TextureStack

ROOM_M = (3.0, 2.5, 1.4)
"""Half extents of the room, whose middle is the origin."""

_MOVABLE = (Kind.BOX, Kind.ELLIPSOID, Kind.CYLINDER)


def rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """(..., 3, 3) by Rodrigues' formula. axis (..., 3) · angle (...) rad."""
    x, y, z = (axis / axis.norm(dim=-1, keepdim=True)).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    turn = angle[..., None, None]
    return torch.eye(3, dtype=axis.dtype) + torch.sin(turn) * cross + (1 - torch.cos(turn)) * (cross @ cross)


def rigid(turn: Tensor, position: Tensor) -> Tensor:
    """(..., 4, 4) from (..., 3, 3) and (..., 3)."""
    shape = torch.broadcast_shapes(turn.shape[:-2], position.shape[:-1])
    transform = torch.eye(4, dtype=torch.float64).expand(*shape, 4, 4).clone()
    transform[..., :3, :3], transform[..., :3, 3] = turn, position
    return transform


def camera_pose(eye: Tensor, target: Tensor) -> Tensor:
    """world_from_camera (..., 4, 4) of a level camera. eye, target (..., 3)."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0, 1], dtype=torch.float64).expand_as(forward)), dim=-1)
    return rigid(torch.stack([right, torch.linalg.cross(forward, right), forward], -1), eye)


def procedural_room(
    num_clips: int = 1, num_frames: int = 4, num_solids: int = 12, image_size: tuple[int, int] = (64, 80), seed: int = 0, terrain: bool = True
) -> SceneBatch:
    """Six walls (planes), a field of hills in a corner, and solids in the air, of which every second one moves and turns; the camera orbits."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random, dtype=torch.float64)

    room = torch.tensor(ROOM_M, dtype=torch.float64)
    kinds = [Kind.PLANE] * 6 + [Kind.HEIGHT_FIELD] * terrain + [_MOVABLE[index % 3] for index in range(num_solids)]
    fixed, count = 6 + terrain, 6 + terrain + num_solids
    size = torch.cat([torch.full((fixed, 3), 3.5, dtype=torch.float64), uniform(num_solids, 3, low=0.12, high=0.35)]).expand(num_clips, -1, 3).clone()
    walls = [rigid(turn, position) for turn, position in _walls(room)]
    if terrain:
        size[:, 6] = torch.tensor([1.2, 1.0, 0.25])
        walls.append(rigid(torch.eye(3, dtype=torch.float64), torch.tensor([-1.0, -0.8, -1.1], dtype=torch.float64)))
    time = torch.linspace(0, 1, num_frames, dtype=torch.float64)[None, :, None]
    moves = (torch.arange(num_solids) % 2 == 1).double()
    angle = 3 * uniform(num_clips, 1, num_solids, low=-1) + 2 * time * moves
    start = uniform(num_clips, 1, num_solids, 3, low=-0.7, high=0.7) * room
    turn = rotation(uniform(num_clips, 1, num_solids, 3, low=-1).expand(-1, num_frames, -1, -1), angle)
    position = start + 0.4 * time[..., None] * moves[:, None] * uniform(num_clips, 1, num_solids, 3, low=-1)
    poses = torch.cat([torch.stack(walls).expand(num_clips, num_frames, -1, -1, -1), rigid(turn, position)], 2)
    orbit = uniform(num_clips, 1, high=2 * math.pi) + 0.4 * time[..., 0]
    eye = torch.stack([2.6 * torch.cos(orbit), 2.1 * torch.sin(orbit), torch.full_like(orbit, 0.5)], -1)
    height, width = image_size
    intrinsics = torch.tensor([0.8 * width, 0.8 * width, (width - 1) / 2 + 0.3, (height - 1) / 2 - 0.4], dtype=torch.float64)
    numbers = torch.arange(count)
    return SceneBatch(
        kind=torch.tensor(kinds).expand(num_clips, -1).clone(),
        size=size.float(),
        world_from_primitive=poses.contiguous(),
        object_id=(numbers + 1).int().expand(num_clips, -1).clone(),
        is_dynamic=torch.cat([torch.zeros(fixed), moves]).bool().expand(num_clips, -1).clone(),
        casts_shadow=(numbers >= 6).expand(num_clips, -1).clone(),
        texture=(numbers % 4 - 1).expand(num_clips, -1).clone(),
        texture_scale=torch.full((num_clips, count), 0.8),
        texture_offset=uniform(num_clips, count, 2).float(),
        tint=uniform(num_clips, count, 3, low=0.4).float(),
        specular=(0.3 * (numbers % 3 == 0)).expand(num_clips, -1).clone(),
        shininess=torch.full((num_clips, count), 20.0),
        height_index=torch.zeros(num_clips, count, dtype=torch.int64),
        light_position=torch.tensor([[1.5, 1.2, 1.1], [-1.8, 0.4, 1.0]]).expand(num_clips, num_frames, 2, 3).clone(),
        light_colour=torch.tensor([[3.0, 2.8, 2.4], [1.5, 1.7, 2.0]]).expand(num_clips, 2, 3).clone(),
        ambient=torch.full((num_clips, 3), 0.15),
        background=torch.tensor([[0.7, 0.7, 0.7], [0.2, 0.4, 0.8]]).expand(num_clips, 2, 3).clone(),
        intrinsics=intrinsics.expand(num_clips, num_frames, 4).clone(),
        world_from_camera=camera_pose(eye, torch.zeros_like(eye)),
        exposure=torch.ones(num_clips, num_frames),
        textures=TextureStack.from_images(_patterns()),
        heights=_hills(),
        image_size=image_size,
    )


def _walls(room: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rotation and position of six planes that face the middle."""
    walls = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            normal = torch.zeros(3, dtype=torch.float64)
            normal[axis] = -side
            other = torch.roll(normal.abs(), 1)
            walls.append((torch.stack([other, torch.linalg.cross(normal, other), normal], -1), -normal * room[axis]))
    return walls


def _patterns(resolution: int = 64) -> Tensor:
    """(3, 3, S, S) checks, stripes and waves in [0, 1]."""
    row, column = torch.meshgrid(torch.arange(resolution), torch.arange(resolution), indexing="ij")
    checks = ((row // 8 + column // 8) % 2).float()
    stripes = ((row // 4) % 2).float()
    waves = 0.5 + 0.5 * torch.sin(2 * math.pi * (row + 2 * column) / resolution)
    return torch.stack([torch.stack([0.2 + 0.7 * pattern, 0.9 - 0.5 * pattern, 0.3 + 0.3 * pattern]) for pattern in (checks, stripes, waves)])


def _hills(size: int = 17) -> Tensor:
    """(1, size, size) a smooth field of hills in [-1, 1]."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return (0.6 * torch.cos(4 * row) * torch.sin(5 * column + 1) + 0.3 * torch.cos(7 * column - 3 * row))[None]
