"""Best rigid motion or similarity between corresponding points (Umeyama, PAMI 1991)."""

from __future__ import annotations

from array_api_compat import array_namespace

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.so3 import Array

# Spread across the main direction, relative to the spread along it, below which the rotation is not determined.
_MIN_RELATIVE_SPREAD = 1e-6


def umeyama(source: Array, target: Array, weights: Array | None = None, *, with_scale: bool) -> Array:
    """target_from_source (..., 4, 4) that minimises the weighted squared distances between target and moved source points, both (..., n, 3).

    with_scale: the upper left 3x3 block is scale * rotation (Sim(3)); otherwise a rotation (SE(3)). The rotation is proper also where a
    reflection would fit better. weights (..., n), not negative. NumPy or torch, any leading batch dimensions. Raises InputError when shapes
    differ, or when the points of a batch entry with positive weight lie on one line or in one point, which leaves the rotation open.
    """
    xp = array_namespace(source, target)
    if source.shape != target.shape or source.shape[-1] != 3:
        raise InputError(f"source points {tuple(source.shape)} and target points {tuple(target.shape)}: both must be (..., n, 3)")
    if weights is None:
        weights = xp.ones_like(source[..., 0])
    total = xp.sum(weights, axis=-1, keepdims=True)
    if bool(xp.any(weights < 0)) or not bool(xp.all(total > 0)):
        raise InputError("weights: none may be negative and at least one must be positive")
    share = (weights / total)[..., None]
    source_mean, target_mean = xp.sum(share * source, axis=-2), xp.sum(share * target, axis=-2)
    source_part, target_part = source - source_mean[..., None, :], target - target_mean[..., None, :]
    u, singular, vt = xp.linalg.svd(xp.matrix_transpose(share * target_part) @ source_part)
    if not bool(xp.all(singular[..., 1] > _MIN_RELATIVE_SPREAD * singular[..., 0])):
        raise InputError(f"alignment of {source.shape[-2]} points: they must not lie on one line or in one point")
    sign = xp.sign(xp.linalg.det(u) * xp.linalg.det(vt))
    signs = xp.stack([xp.ones_like(sign), xp.ones_like(sign), sign], axis=-1)
    rotation = (u * signs[..., None, :]) @ vt
    if with_scale:
        variance = xp.sum(share[..., 0] * xp.sum(source_part**2, axis=-1), axis=-1)
        rotation = rotation * (xp.sum(singular * signs, axis=-1) / variance)[..., None, None]
    translation = target_mean - (rotation @ source_mean[..., None])[..., 0]
    return se3.from_rotation_translation(rotation, translation)


def similarity_scale(target_from_source: Array) -> Array:
    """Scale (...) of a similarity (..., 4, 4): 1 for a rigid motion."""
    xp = array_namespace(target_from_source)
    return xp.sqrt(xp.sum(target_from_source[..., :3, :3] ** 2, axis=(-2, -1)) / 3)
