"""Focal length of a point map: of points that are known for every pixel, in the camera's own axes.

A pinhole with square pixels sees the point (x, y, z) at principal point + f (x / z, y / z), so each pixel votes for f. Both robust estimates are
those of DUSt3R (Wang et al., CVPR 2024; `estimate_focal_knowing_depth` in naver/dust3r dust3r/post_process.py, modes "weiszfeld" and "median").
NumPy arrays or torch tensors, any leading batch dimensions.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from perception.core.errors import InputError
from perception.geometry.so3 import Array

_SHORTEST_PX = 1e-8
"""Residuals below this weigh as this one."""


def focal_of_point_map(points: Array, principal_point_px: Any, valid: Array | None = None, *, num_iterations: int = 10) -> Array:
    """Focal length (...) in pixels of a point map (..., height, width, 3): least sum of distances in the image between pixels and projected points.

    Weiszfeld's reweighted least squares, started from the plain least squares. principal_point_px (..., 2) as (x, y), pixel centres at integers.
    valid (..., height, width) bool; points that are not finite once divided by their depth never count. NaN where no point is left or all lie on
    the optical axis. Raises InputError where shapes do not fit.
    """
    xp = array_namespace(points)
    rays, pixels, counted = _rays_and_pixels(points, principal_point_px, valid)
    along = xp.sum(rays * pixels, axis=-1) * counted
    squared = xp.sum(rays**2, axis=-1) * counted
    focal = _ratio(xp.sum(along, axis=-1), xp.sum(squared, axis=-1))
    for _ in range(num_iterations):
        residual = xp.sqrt(xp.sum((pixels - focal[..., None, None] * rays) ** 2, axis=-1))
        weight = 1.0 / xp.where(residual < _SHORTEST_PX, xp.full_like(residual, _SHORTEST_PX), residual)
        focal = _ratio(xp.sum(weight * along, axis=-1), xp.sum(weight * squared, axis=-1))
    return focal


def median_focal_of_point_map(points: Array, principal_point_px: Any, valid: Array | None = None) -> Array:
    """Focal length (...) in pixels of a point map (..., height, width, 3): the median of what columns and rows vote for, u z / x and v z / y.

    One pass instead of iterations, but every vote counts the same, also those near the principal point, where noise moves them most. Of an even
    number of votes the lower middle one is taken. Arguments, NaN and errors as in `focal_of_point_map`. One difference to DUSt3R: points of depth 0
    have no vote (there they vote for 0).
    """
    xp = array_namespace(points)
    rays, pixels, counted = _rays_and_pixels(points, principal_point_px, valid)
    is_axis = rays == 0
    votes = xp.where(is_axis, xp.sign(pixels) * xp.finfo(pixels.dtype).max, pixels / xp.where(is_axis, xp.ones_like(rays), rays))
    has_vote = (counted[..., None] > 0) & ~(is_axis & (pixels == 0))
    num_votes = xp.sum(xp.astype(has_vote, xp.int64), axis=(-2, -1))
    ordered = xp.sort(_flat_pairs(xp.where(has_vote, votes, xp.full_like(votes, float("inf")))), axis=-1)
    is_middle = xp.arange(ordered.shape[-1], device=getattr(points, "device", None)) == (num_votes[..., None] - 1) // 2
    middle = xp.sum(xp.where(is_middle, ordered, xp.zeros_like(ordered)), axis=-1)
    return xp.where(num_votes > 0, middle, xp.full_like(middle, float("nan")))


def _flat_pairs(values: Array) -> Array:
    """(..., n, 2) → (..., 2n)"""
    return array_namespace(values).reshape(values, (*values.shape[:-2], 2 * values.shape[-2]))


def _rays_and_pixels(points: Array, principal_point_px: Any, valid: Array | None) -> tuple[Array, Array, Array]:
    """Points over their depth (..., n, 2), pixels from the principal point (..., n, 2) and what counts (..., n) as 0 and 1."""
    xp = array_namespace(points)
    if points.ndim < 3 or points.shape[-1] != 3:
        raise InputError(f"point map of shape {tuple(points.shape)}: must be (..., height, width, 3)")
    *batch, height, width, _ = points.shape
    if valid is not None and tuple(valid.shape) != tuple(points.shape[:-1]):
        raise InputError(f"valid of shape {tuple(valid.shape)}: must be {tuple(points.shape[:-1])} as the point map")
    device = getattr(points, "device", None)
    depth = points[..., 2:]
    usable = xp.all(xp.isfinite(points), axis=-1) & (depth[..., 0] != 0)
    if valid is not None:
        usable = usable & valid
    rays = xp.where(usable[..., None], points[..., :2], xp.zeros_like(points[..., :2])) / xp.where(usable[..., None], depth, xp.ones_like(depth))
    columns = xp.arange(width, dtype=points.dtype, device=device)
    rows = xp.arange(height, dtype=points.dtype, device=device)
    grid = xp.stack([xp.broadcast_to(columns, (height, width)), xp.broadcast_to(rows[:, None], (height, width))], axis=-1)
    centre = xp.asarray(principal_point_px, dtype=points.dtype, device=device)
    if centre.shape[-1] != 2 or (centre.ndim > 1 and tuple(centre.shape[:-1]) != tuple(batch)):
        raise InputError(f"principal_point_px of shape {tuple(centre.shape)}: must be (2,) or {(*batch, 2)}")
    pixels = grid - centre[..., None, None, :]
    flat = (*batch, height * width)
    counted = xp.where(usable, xp.ones_like(rays[..., 0]), xp.zeros_like(rays[..., 0]))
    pixels = xp.broadcast_to(pixels, (*batch, height, width, 2))
    return xp.reshape(rays, (*flat, 2)), xp.reshape(pixels, (*flat, 2)), xp.reshape(counted, flat)


def _ratio(above: Array, below: Array) -> Array:
    """NaN, without a warning, where `below` is 0."""
    xp = array_namespace(above)
    known = below > 0
    return xp.where(known, above / xp.where(known, below, xp.ones_like(below)), xp.full_like(above, float("nan")))
