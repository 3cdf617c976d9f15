"""Which primitives can meet which tiles of rays, decided on their boxes: never leaves a pair out that meets, keeps some that do not."""

from __future__ import annotations

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.intersection import Vector
from perception_training.data.synthetic.scenes.scene import MAX_DEPTH_M, Kind, SceneBatch
from perception_training.data.synthetic.scenes.tiling import CameraRays
from perception_training.data.synthetic.scenes.unit_frames import rigid_inverse

_SLACK_M = 1e-3
"""Boxes are taken this much larger, so that rounding leaves no pair out."""


def _extents(scene: SceneBatch) -> Tensor:
    """(B, 1, P, 3) float64 half extents that hold each primitive, finite."""
    size = scene.size.double().clamp(max=4 * MAX_DEPTH_M) + _SLACK_M
    flat = scene.kind_there == Kind.PLANE
    size[..., 2] = torch.where(flat, _SLACK_M, size[..., 2])
    return size[:, None]


def seen_from_camera(scene: SceneBatch, rays: CameraRays) -> Tensor:
    """(rows, P) bool: the primitive's box reaches between the four planes of the tile's pyramid."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64, device=scene.device)] * 3)
    corners = signs * _extents(scene)[..., None, :]
    camera_from_primitive = rigid_inverse(scene.world_from_camera)[:, :, None] @ scene.world_from_primitive
    points = corners @ camera_from_primitive[..., :3, :3].transpose(-1, -2) + camera_from_primitive[..., None, :3, 3]
    x, y, z = points.flatten(0, 1).unbind(-1)  # (frames, P, 8)
    tiles = rays.num_rows // len(x)

    def between(across: Tensor, of_rays: Tensor) -> Tensor:
        ends = of_rays.double()[:, (0, -1)].view(len(x), tiles, 1, 2, 1)
        beyond = across[:, None, :, None] - ends * z[:, None, :, None]  # (frames, tiles, P, 2, 8)
        return (beyond[..., 0, :].amax(-1) >= 0) & (beyond[..., 1, :].amin(-1) <= 0)

    seen = between(x, rays.x) & between(y, rays.y) & (z.amax(-1) > 0)[:, None]
    return seen.flatten(0, 1)


def seen_from_light(scene: SceneBatch, light: Tensor, points: Vector, wanted: Tensor, frame: Tensor) -> Tensor:
    """(rows, P) bool: the primitive's box can touch a segment from the light to one of the row's points.

    light (rows, 3) · points, wanted (rows, rays): which of them count · frame (rows,). Segments and boxes are compared along the axes of the box,
    along those of the world, and by the distance of the box's middle from the middle segment.
    """
    low = torch.stack([torch.where(wanted, part, torch.inf).amin(1) for part in points], 1)
    high = torch.stack([torch.where(wanted, part, -torch.inf).amax(1) for part in points], 1)
    some = wanted.any(1)
    low, high = torch.where(some[:, None], low, 0), torch.where(some[:, None], high, 0)
    middle, half = (low + high) / 2, (high - low) / 2
    extents = _extents(scene).float()[:, 0].repeat_interleave(scene.num_frames, 0)  # (frames, P, 3)
    world_from_primitive = scene.world_from_primitive.flatten(0, 1).float()
    rotation, position = world_from_primitive[..., :3, :3], world_from_primitive[..., :3, 3]
    reach_world = (rotation.abs() @ extents[..., None])[..., 0]
    to_light, to_middle = light[:, None] - position[frame], middle[:, None] - position[frame]  # (rows, P, 3)

    def apart(start: Tensor, end: Tensor, margin: Tensor, reach: Tensor) -> Tensor:
        return ((torch.minimum(start, end - margin) > reach) | (torch.maximum(start, end + margin) < -reach)).any(-1)

    separate = apart(to_light, to_middle, half[:, None], reach_world[frame])
    into = rotation.transpose(-1, -2)[frame]
    turned_half = (into.abs() @ half[:, None, :, None])[..., 0]
    separate |= apart((into @ to_light[..., None])[..., 0], (into @ to_middle[..., None])[..., 0], turned_half, extents[frame])
    along = to_middle - to_light
    share = (-(to_light * along).sum(-1) / (along * along).sum(-1).clamp(min=1e-12)).clamp(0, 1)
    distance = (to_light + share[..., None] * along).norm(dim=-1)
    separate |= distance > extents.norm(dim=-1)[frame] + half.norm(dim=1)[:, None]
    return ~separate & some[:, None]
