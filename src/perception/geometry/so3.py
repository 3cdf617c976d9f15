"""Rotations: exponential and logarithm, quaternions and angles.

Every function takes NumPy arrays or torch tensors with any leading batch dimensions and gives back the same kind and dtype. In torch
all of them can be differentiated, also at the identity.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

Array = Any
"""A NumPy array or a torch tensor of floating-point numbers."""

# Below this squared angle the power series are used: their first left-out term is under 1e-16 there.
SMALL_ANGLE_SQUARED = 0.04


def hat(vector: Array) -> Array:
    """The skew-symmetric matrix (..., 3, 3) of `vector` (..., 3): hat(a) @ b is the cross product a x b."""
    xp = array_namespace(vector)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = xp.zeros_like(x)
    rows = [xp.stack(row, axis=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return xp.stack(rows, axis=-2)


def sine_ratio(angle_squared: Array) -> Array:
    """sin(t) / t of t^2 = `angle_squared`, smooth at 0."""
    xp = array_namespace(angle_squared)
    small = angle_squared < SMALL_ANGLE_SQUARED
    angle = xp.sqrt(xp.where(small, xp.ones_like(angle_squared), angle_squared))
    a = angle_squared
    return xp.where(small, 1 - a / 6 * (1 - a / 20 * (1 - a / 42 * (1 - a / 72 * (1 - a / 110)))), xp.sin(angle) / angle)


def exp(rotation_vector: Array) -> Array:
    """Rotation matrix (..., 3, 3) of a rotation vector (..., 3): axis times angle in radians."""
    xp = array_namespace(rotation_vector)
    angle_squared = xp.sum(rotation_vector**2, axis=-1)[..., None, None]
    cross = hat(rotation_vector)
    # (1 - cos t) / t^2 written as a squared sine: no cancellation at small angles.
    half_ratio = sine_ratio(angle_squared / 4)
    identity = xp.eye(3, dtype=rotation_vector.dtype, device=getattr(rotation_vector, "device", None))
    return identity + sine_ratio(angle_squared) * cross + 0.5 * half_ratio**2 * (cross @ cross)


def log(rotation: Array) -> Array:
    """Rotation vector (..., 3) in radians of a rotation matrix (..., 3, 3), angle in [0, pi]; exact also close to 0 and to pi."""
    xp = array_namespace(rotation)
    quaternion = to_quaternion_xyzw(rotation)
    vector, w = quaternion[..., :3], quaternion[..., 3]
    squared = xp.sum(vector**2, axis=-1)
    small = squared < 1e-6
    norm = xp.sqrt(xp.where(small, xp.ones_like(squared), squared))
    w_small = xp.where(small, w, xp.ones_like(w))
    ratio = squared / w_small**2
    series = 2 / w_small * (1 - ratio / 3 + ratio**2 / 5)
    return vector * xp.where(small, series, 2 * xp.atan2(norm, w) / norm)[..., None]


def rotation_angle(rotation: Array) -> Array:
    """Angle (...) in radians, in [0, pi], of a rotation matrix (..., 3, 3); accurate over the whole range."""
    xp = array_namespace(rotation)
    r = rotation
    twice_axis = xp.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], axis=-1)
    squared = xp.sum(twice_axis**2, axis=-1)
    zero = squared == 0
    sine = xp.where(zero, xp.zeros_like(squared), xp.sqrt(xp.where(zero, xp.ones_like(squared), squared)))
    return xp.atan2(sine, r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2] - 1)


def from_quaternion_xyzw(quaternion: Array) -> Array:
    """Rotation matrix (..., 3, 3) of a quaternion (..., 4) in the order x y z w; its length is divided out. A zero quaternion gives NaN."""
    xp = array_namespace(quaternion)
    q = quaternion / xp.sqrt(xp.sum(quaternion**2, axis=-1))[..., None]
    x, y, z, w = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def to_quaternion_xyzw(rotation: Array, *, unit: bool = True) -> Array:
    """Unit quaternion (..., 4) in the order x y z w, with w >= 0, of a rotation matrix (..., 3, 3).

    Each of the four components can serve as divisor; the largest is taken (Shepperd, 1978), so that no angle is badly conditioned. With unit False
    the length is left as the formula gives it, which is 1 only as far as the matrix is a rotation.
    """
    xp = array_namespace(rotation)
    r = rotation
    d0, d1, d2 = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    # Row k holds 4 q_k (x, y, z, w): four multiples of the same quaternion.
    rows = (
        (1 + d0 - d1 - d2, xy, xz, wx),
        (xy, 1 - d0 + d1 - d2, yz, wy),
        (xz, yz, 1 - d0 - d1 + d2, wz),
        (wx, wy, wz, 1 + d0 + d1 + d2),
    )
    multiples = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
    squares = xp.stack([row[k] for k, row in enumerate(rows)], axis=-1)
    chosen = xp.argmax(squares, axis=-1)[..., None] == xp.arange(4, device=getattr(rotation, "device", None))
    quaternion = xp.sum(xp.where(chosen[..., None], multiples, xp.zeros_like(multiples)), axis=-2)
    length = xp.sqrt(xp.sum(quaternion**2, axis=-1)) if unit else 2 * xp.sqrt(xp.max(squares, axis=-1))
    quaternion = quaternion / length[..., None]
    return xp.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
