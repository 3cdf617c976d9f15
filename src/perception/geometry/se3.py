"""Rigid motions as 4x4 matrices that read like fractions: `a_from_c = a_from_b @ b_from_c`.

NumPy or torch, any leading batch dimensions, same kind and dtype back. A twist is (x, y, z, rot x, rot y, rot z) in metres and radians, the
order of geometry_msgs/PoseWithCovariance.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from perception.geometry import so3
from perception.geometry.so3 import SMALL_ANGLE_SQUARED, Array


def from_rotation_translation(rotation: Array, translation: Array) -> Array:
    """(..., 4, 4) from a rotation matrix (..., 3, 3) and a translation (..., 3)."""
    xp = array_namespace(rotation, translation)
    upper = xp.concat([rotation, translation[..., None]], axis=-1)
    row = xp.concat([xp.zeros_like(translation), xp.ones_like(translation[..., :1])], axis=-1)
    return xp.concat([upper, row[..., None, :]], axis=-2)


def inverse(a_from_b: Array) -> Array:
    """b_from_a (..., 4, 4) of a rigid motion; the rotation is transposed, never inverted."""
    xp = array_namespace(a_from_b)
    transposed = xp.matrix_transpose(a_from_b[..., :3, :3])
    return from_rotation_translation(transposed, -(transposed @ a_from_b[..., :3, 3:])[..., 0])


def transform_points(a_from_b: Array, points: Array) -> Array:
    """Points (..., n, 3) of frame b in frame a; the leading dimensions of both broadcast. Similarities (scaled rotations) work as well.

    A single point is (1, 3)."""
    xp = array_namespace(a_from_b, points)
    return points @ xp.matrix_transpose(a_from_b[..., :3, :3]) + a_from_b[..., None, :3, 3]


def _third_ratio(angle_squared: Array) -> Array:
    """(t - sin t) / t^3 of t^2 = `angle_squared`, smooth at 0."""
    xp = array_namespace(angle_squared)
    small = angle_squared < SMALL_ANGLE_SQUARED
    safe = xp.where(small, xp.ones_like(angle_squared), angle_squared)
    angle, a = xp.sqrt(safe), angle_squared
    return xp.where(small, (1 - a / 20 * (1 - a / 42 * (1 - a / 72 * (1 - a / 110)))) / 6, (angle - xp.sin(angle)) / (angle * safe))


def _inverse_ratio(angle_squared: Array) -> Array:
    """(1 - (t / 2) cot(t / 2)) / t^2 of t^2 = `angle_squared`, smooth at 0."""
    xp = array_namespace(angle_squared)
    small = angle_squared < SMALL_ANGLE_SQUARED
    safe = xp.where(small, xp.ones_like(angle_squared), angle_squared)
    half, a = xp.sqrt(safe) / 2, angle_squared
    series = 1 / 12 + a * (1 / 720 + a * (1 / 30240 + a * (1 / 1209600 + a / 47900160)))
    return xp.where(small, series, (1 - half / xp.tan(half)) / safe)


def exp(twist: Array) -> Array:
    """Rigid motion (..., 4, 4) of a twist (..., 6)."""
    xp = array_namespace(twist)
    velocity, rotation_vector = twist[..., :3], twist[..., 3:]
    angle_squared = xp.sum(rotation_vector**2, axis=-1)[..., None]
    once = xp.linalg.cross(rotation_vector, velocity, axis=-1)
    twice = xp.linalg.cross(rotation_vector, once, axis=-1)
    translation = velocity + 0.5 * so3.sine_ratio(angle_squared / 4) ** 2 * once + _third_ratio(angle_squared) * twice
    return from_rotation_translation(so3.exp(rotation_vector), translation)


def log(a_from_b: Array) -> Array:
    """Twist (..., 6) of a rigid motion (..., 4, 4), rotation angle in [0, pi]."""
    xp = array_namespace(a_from_b)
    rotation_vector, translation = so3.log(a_from_b[..., :3, :3]), a_from_b[..., :3, 3]
    angle_squared = xp.sum(rotation_vector**2, axis=-1)[..., None]
    once = xp.linalg.cross(rotation_vector, translation, axis=-1)
    twice = xp.linalg.cross(rotation_vector, once, axis=-1)
    return xp.concat([translation - 0.5 * once + _inverse_ratio(angle_squared) * twice, rotation_vector], axis=-1)


def interpolate(a_from_b_start: Array, a_from_b_end: Array, fraction: Array | float) -> Array:
    """Pose (..., 4, 4) between two poses (..., 4, 4): straight line for the translation, shortest turn for the rotation, as tf2 does.

    fraction: scalar or (...); 0 gives the start, 1 the end; values outside extrapolate.
    """
    xp = array_namespace(a_from_b_start, a_from_b_end)
    share = xp.asarray(fraction, dtype=a_from_b_start.dtype)[..., None]
    start = a_from_b_start[..., :3, :3]
    turn = so3.log(xp.matrix_transpose(start) @ a_from_b_end[..., :3, :3])
    translation = (1 - share) * a_from_b_start[..., :3, 3] + share * a_from_b_end[..., :3, 3]
    return from_rotation_translation(start @ so3.exp(share * turn), translation)
