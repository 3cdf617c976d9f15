"""Where pixels of one view lie in another one, from depth, intrinsics and poses, for whole batches at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.collation import Batch

_BORDER_PX = 2
"""Counterparts nearer to the border than this are left out: descriptors there have seen mostly what is beyond it."""


@dataclass(frozen=True, eq=False)
class Correspondences:
    """For each pair of the batch: pixels of the query view, where they lie in the other one, and for which of them that is known and visible."""

    query_px: Float[Tensor, "pair n 2"]
    item_px: Float[Tensor, "pair n 2"]
    valid: Bool[Tensor, "pair n"]


def draw_correspondences(
    batch: Batch, query: int, item: int, num: int, max_relative_depth_error: float, generator: torch.Generator | None = None
) -> Correspondences:
    """`num` pixels of view `query` of each sample, drawn evenly by a generator of the CPU (default: torch's), looked up in view `item`.

    A counterpart is valid where the depth of the other view at its nearest pixel agrees to this share and the mask, if there are masks, names the
    same body. Surfaces that move in the world are left out. Raises InputError that names the sample without depth, intrinsics or pose.
    """
    _check(batch, query, item)
    assert batch.depth_m is not None
    height, width = batch.images.shape[-2:]
    size = torch.tensor([width, height])
    place = torch.rand(len(batch), num, 2, generator=generator)
    pixels = (_BORDER_PX + (place * (size - 2 * _BORDER_PX)).floor()).to(batch.images.device, torch.float64)
    z = _read(batch.depth_m, query, pixels).double()
    world = _lift(batch, query, pixels, z)
    found, z_item = _project(batch, item, world)
    size = size.to(found)
    inside = ((found >= _BORDER_PX) & (found <= size - 1 - _BORDER_PX)).all(-1) & (z_item > 0)
    nearest = torch.where(inside[..., None], found, 0.0).round()
    seen = _read(batch.depth_m, item, nearest).double()
    valid = inside & (z > 0) & (seen > 0) & ((seen - z_item).abs() < max_relative_depth_error * z_item)
    if batch.masks is not None:
        both = batch.has_masks[:, query] & batch.has_masks[:, item]
        valid &= (_read(batch.masks, query, pixels) == _read(batch.masks, item, nearest)) | ~both[:, None]
    if batch.dynamic is not None:
        valid &= ~_read(batch.dynamic, query, pixels)
    return Correspondences(pixels.float(), found.float(), valid)


def _check(batch: Batch, *views: int) -> None:
    for view in views:
        known = batch.has_camera[:, view] & batch.has_pose[:, view]
        if batch.depth_m is None or not bool(known.all()):
            row = 0 if batch.depth_m is None else int((~known).nonzero()[0, 0])
            place = f"{batch.datasets[row]}/{batch.sequences[row]}/{batch.frame_names[row][view]}"
            raise InputError(f"{place}: correspondences need depth with intrinsics and pose; this frame lacks some of them")


def _read(maps: Tensor, view: int, pixels: Tensor) -> Tensor:
    """Values (B, n) of maps (B, T, H, W) at whole pixels (B, n, 2)."""
    column, row = pixels.long().unbind(-1)
    return maps[:, view].flatten(1).gather(1, row * maps.shape[-1] + column)


def _lift(batch: Batch, view: int, pixels: Tensor, z: Tensor) -> Tensor:
    """Points (B, n, 3) in the world."""
    intrinsics, pose = batch.intrinsics[:, view], batch.world_from_camera[:, view]
    rays = (pixels - intrinsics[:, None, :2, 2]) / intrinsics.diagonal(dim1=-2, dim2=-1)[:, None, :2]
    points = torch.cat([rays * z[..., None], z[..., None]], dim=-1)
    return points @ pose[:, :3, :3].mT + pose[:, None, :3, 3]


def _project(batch: Batch, view: int, world: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (B, n, 2) and depth (B, n) of points in the world."""
    intrinsics, pose = batch.intrinsics[:, view], batch.world_from_camera[:, view]
    points = (world - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    z = points[..., 2]
    flat = points[..., :2] / torch.where(z > 0, z, torch.ones_like(z))[..., None]
    return flat * intrinsics.diagonal(dim1=-2, dim2=-1)[:, None, :2] + intrinsics[:, None, :2, 2], z
