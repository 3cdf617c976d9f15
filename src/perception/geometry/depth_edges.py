"""Where neighbouring pixels see different things: steps of depth, creases of the surface, and both at once. torch, any leading batch dimensions.

As Pi3 (yyfz/Pi3, `utils/geometry.py`) cleans its point maps: a step of depth alone is also found on smooth surfaces that are seen at a grazing
angle or from afar, so a pixel is dropped where the surface creases as well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from perception.core.errors import InputError

RELATIVE_STEP = 0.03
"""Range of depth in a neighbourhood over the depth of its pixel, above which there is an edge: for Pi3's point maps. TrajVG takes 0.04."""
CREASE_DEG = 5.0


def depth_edges(depth: Tensor, valid: Tensor | None = None, *, relative_step: float = RELATIVE_STEP, window_px: int = 3) -> Tensor:
    """Mask (..., height, width) of the pixels in whose window the depth ranges over more than the share `relative_step` of their own depth.

    depth (..., height, width) in any unit. valid, of the same shape, bool: others take no part as neighbours; without it all finite ones do. A pixel
    that is not valid itself is marked by its neighbours' range and its own depth, too: at depth 0 by any range above 0.
    """
    _check(depth.shape[-2:], window_px, None if valid is None else valid.shape == depth.shape)
    known = torch.isfinite(depth) if valid is None else valid & torch.isfinite(depth)
    nothing = depth.new_tensor(-torch.inf)
    span = _largest(torch.where(known, depth, nothing), window_px) + _largest(torch.where(known, -depth, nothing), window_px)
    return span / depth > relative_step


def normals_of_point_map(points: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Unit normals (..., height, width, 3) and where they are known (..., height, width), of a point map (..., height, width, 3).

    Mean direction of the normals of the up to four triangles between a pixel and two of its direct neighbours; 0 where unknown. They face the camera
    that the map was seen by, if its rows go down and its columns to the right. float32 or float64.
    """
    if points.ndim < 3 or points.shape[-1] != 3:
        raise InputError(f"point map of shape {tuple(points.shape)}: must be (..., height, width, 3)")
    _check(points.shape[-3:-1], 3, None if valid is None else valid.shape == points.shape[:-1])
    known = torch.isfinite(points).all(-1)
    if valid is not None:
        known = known & valid
    points = torch.where(known[..., None], points, 0.0)
    arms, arms_known = [], []
    for rows, columns in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        arms.append(_neighbour(points, rows, columns, -3) - points)
        arms_known.append(_neighbour(known, rows, columns, -2) & known)
    total, any_known = torch.zeros_like(points), torch.zeros_like(known)
    for index in range(4):
        following = (index + 1) % 4
        both = arms_known[index] & arms_known[following]
        normal = functional.normalize(torch.linalg.cross(arms[index], arms[following]), dim=-1)
        total = total + torch.where(both[..., None], normal, 0.0)
        any_known = any_known | both
    return functional.normalize(total, dim=-1), any_known


def normal_edges(normals: Tensor, valid: Tensor | None = None, *, crease_deg: float = CREASE_DEG, window_px: int = 3) -> Tensor:
    """Mask (..., height, width) of the pixels near which normals turn by more than `crease_deg` degrees from a pixel to another in its window.

    normals (..., height, width, 3) of unit length. "Near": the turn of each pixel holds for its whole window. valid (..., height, width): others are
    not marked.
    """
    _check(normals.shape[-3:-1], window_px, None if valid is None else valid.shape == normals.shape[:-1])
    known = torch.ones(normals.shape[:-1], dtype=torch.bool, device=normals.device) if valid is None else valid
    reach = window_px // 2
    smallest_cosine = torch.ones_like(normals[..., 0])
    for rows in range(-reach, reach + 1):
        for columns in range(-reach, reach + 1):
            cosine = (normals * _neighbour(normals, rows, columns, -3)).sum(-1)
            counted = _neighbour(known, rows, columns, -2)
            smallest_cosine = torch.minimum(smallest_cosine, torch.where(counted, cosine, 1.0))
    # A pixel that is not valid and has the zero vector is at a right angle to everything: the border of what is known is a crease, as published.
    return (_largest(-smallest_cosine, window_px) > -math.cos(math.radians(crease_deg))) & known


def depth_and_normal_edges(
    points_camera: Tensor,
    valid: Tensor | None = None,
    *,
    relative_step: float = RELATIVE_STEP,
    crease_deg: float = CREASE_DEG,
    window_px: int = 3,
) -> Tensor:
    """Mask (..., height, width) of the edges, of depth and of normals at once, in point maps (..., height, width, 3) in camera axes.

    Only points that are finite, in front of the camera and valid (..., height, width) count or are marked.
    """
    known = torch.isfinite(points_camera).all(-1) & (points_camera[..., 2] > 0)
    if valid is not None:
        known = known & valid
    steps = depth_edges(points_camera[..., 2], known, relative_step=relative_step, window_px=window_px) & known
    normals, normals_known = normals_of_point_map(points_camera, known)
    return steps & normal_edges(normals, normals_known, crease_deg=crease_deg, window_px=window_px)


def _check(size: torch.Size, window_px: int, fits: bool | None) -> None:
    if len(size) < 2 or 0 in size:
        raise InputError(f"depth or point map of size {tuple(size)}: must have at least one row and one column")
    if window_px < 1 or window_px % 2 == 0:
        raise InputError(f"window_px = {window_px}: must be odd and positive")
    if fits is False:
        raise InputError("valid: must have the shape (..., height, width) of the map")


def _largest(values: Tensor, window_px: int) -> Tensor:
    """Largest value (..., height, width) in the window around each pixel; beyond the image there is nothing."""
    flat = values.reshape(-1, 1, *values.shape[-2:])
    return functional.max_pool2d(flat, window_px, stride=1, padding=window_px // 2).reshape(values.shape)


def _neighbour(values: Tensor, rows: int, columns: int, row_axis: int) -> Tensor:
    """Of each pixel the value `rows` below and `columns` to the right, zero (False) beyond the image. row_axis: that of the rows, -2 or -3."""
    moved = torch.zeros_like(values)
    height, width = values.shape[row_axis], values.shape[row_axis + 1]
    to_rows, from_rows = _overlap(rows, height)
    to_columns, from_columns = _overlap(columns, width)
    if row_axis == -2:
        moved[..., to_rows, to_columns] = values[..., from_rows, from_columns]
    else:
        moved[..., to_rows, to_columns, :] = values[..., from_rows, from_columns, :]
    return moved


def _overlap(step: int, size: int) -> tuple[slice, slice]:
    return slice(max(0, -step), max(0, size - max(0, step))), slice(max(0, step), max(0, size + min(0, step)))
