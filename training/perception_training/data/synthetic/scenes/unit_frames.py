"""The coordinates in which primitives are unit shapes. Products of transforms are taken in float64, so that float32 only meets their results."""

from __future__ import annotations

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.scene import Kind, SceneBatch

_SMALLEST_SIZE = 1e-6


def half_extents(scene: SceneBatch) -> Tensor:
    """(B, P, 3) float64: sizes by which coordinates are divided. A plane keeps its metres along z."""
    size = scene.size.double().clamp(min=_SMALLEST_SIZE)
    flat = scene.kind_there == Kind.PLANE
    size[..., 2] = torch.where(flat, 1.0, size[..., 2])
    return size


def rigid_inverse(transform: Tensor) -> Tensor:
    """Inverse of (..., 4, 4) rigid transforms."""
    inverse = transform.clone()
    turned = transform[..., :3, :3].transpose(-1, -2)
    inverse[..., :3, :3] = turned
    inverse[..., :3, 3] = -(turned @ transform[..., :3, 3:])[..., 0]
    return inverse


def unit_from_world(scene: SceneBatch) -> Tensor:
    """(B * T, P, 4, 4) float64."""
    size = half_extents(scene)
    scale = torch.cat([1 / size, torch.ones_like(size[..., :1])], 2)[:, None, :, :, None]
    return (scale * rigid_inverse(scene.world_from_primitive)).flatten(0, 1)


def primitives_of_kind(scene: SceneBatch, kind: Kind, shadows: bool) -> Tensor | None:
    """(B, n) int64 primitives of this kind, -1 where a clip has fewer; None if no clip has any. shadows: only those that cast them."""
    on_host = (scene.kind == kind) & scene.casts_shadow if shadows else scene.kind == kind
    most = int(on_host.sum(1).max())
    if not most:
        return None
    is_kind = are_of_kind(scene, kind, shadows)
    order = torch.argsort((~is_kind).to(torch.uint8), dim=1, stable=True)[:, :most]
    return torch.where(is_kind.gather(1, order), order, -1)


def are_of_kind(scene: SceneBatch, kind: Kind, shadows: bool) -> Tensor:
    """(B, P) bool on the scene's device."""
    is_kind = scene.kind_there == kind
    return is_kind & scene.casts_shadow_there if shadows else is_kind
