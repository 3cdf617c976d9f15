"""Relative poses of the camera between all pairs of frames, as reconstruction networks are compared (RRA, RTA, AUC): free of world and scale.

Sources: yyfz/Pi3, branch evaluation, `relpose/metric.py`, which goes back to VGGT (Wang et al., CVPR 2025) and PoseDiffusion (ICCV 2023).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.geometry import se3, so3

PairOrder = Literal["second_from_first", "first_from_second"]
"""Which way the motion of a pair i < j is taken: from i to j as by Pi3, or from j to i as by an evaluation of VGGT. Translations differ."""

Histogram = Literal["whole_degrees", "torch"]
"""Bins of the curve: one for each degree, or one more over the same range, as `torch.histc` with `max_deg` + 1 bins. The second is slightly lower."""


class PairErrors(NamedTuple):
    """Both in degrees, lower is better, one for each pair (n (n - 1) / 2,) in the order (0, 1), (0, 2), ...; infinite where a pose is no number."""

    rotation_deg: NDArray[np.float64]
    translation_deg: NDArray[np.float64]


def pair_errors(
    camera_from_world: NDArray, true_camera_from_world: NDArray, order: PairOrder = "second_from_first", *, either_direction: bool = True
) -> PairErrors:
    """Angle between estimated and true relative rotations, in [0, 180], and between the directions of the relative translations.

    Poses (n, 4, 4) in any world and scale of their own. either_direction: opposite directions are the same, in [0, 90], as Pi3 and VGGT count; else
    in [0, 180], as JOG3R. A translation of length 0 has no direction: 90 degrees. No pairs for fewer than two frames.
    """
    estimated, true = np.asarray(camera_from_world, np.float64), np.asarray(true_camera_from_world, np.float64)
    if estimated.shape != true.shape or estimated.ndim != 3 or estimated.shape[1:] != (4, 4):
        raise InputError(f"relative poses: estimated {estimated.shape} and true {true.shape}; both must be (frames, 4, 4)")
    if not np.isfinite(true).all():
        raise InputError("relative poses: a true pose has numbers that are not finite; leave out frames without a true pose")
    first, second = np.triu_indices(len(true), k=1)
    if order == "first_from_second":
        first, second = second, first
    elif order != "second_from_first":
        raise InputError(f"order of pairs {order!r}: must be one of second_from_first, first_from_second")
    relative, true_relative = (poses[second] @ se3.inverse(poses[first]) for poses in (estimated, true))
    known = np.isfinite(relative).all((-2, -1))
    rotation_deg = _rotation_between_deg(np.where(known[:, None, None], relative[:, :3, :3], np.eye(3)), true_relative[:, :3, :3])
    translation_deg = _angle_between_deg(np.where(known[:, None], relative[:, :3, 3], 0.0), true_relative[:, :3, 3])
    if either_direction:
        translation_deg = np.minimum(translation_deg, 180.0 - translation_deg)
    return PairErrors(np.where(known, rotation_deg, np.inf), np.where(known, translation_deg, np.inf))


def _rotation_between_deg(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    """By the arc cosine of quaternions whose length is left as computed, as published: of rotations stored in float32 the angle is off by up to
    0.01 degrees where it is small, and so are published numbers. At least 4e-6 degrees.
    """
    cosine = np.sum(so3.to_quaternion_xyzw(one, unit=False) * so3.to_quaternion_xyzw(other, unit=False), axis=-1)
    return np.degrees(np.arccos(1.0 - 2.0 * np.maximum(1.0 - np.square(cosine), 1e-15)))


def _angle_between_deg(one: NDArray, other: NDArray) -> NDArray[np.float64]:
    sine, cosine = np.linalg.norm(np.cross(one, other), axis=-1), np.sum(one * other, axis=-1)
    undefined = (np.linalg.norm(one, axis=-1) == 0) | (np.linalg.norm(other, axis=-1) == 0)
    return np.where(undefined, 90.0, np.degrees(np.arctan2(sine, cosine)))


def share_below(errors_deg: NDArray, max_deg: float) -> float:
    """Share of the pairs whose error lies below (strictly) `max_deg` degrees: RRA of rotations, RTA of translations.

    In [0, 1], higher is better, NaN without pairs. Errors that are infinite or NaN are misses.
    """
    errors_deg = np.asarray(errors_deg, np.float64)
    return float((errors_deg < max_deg).mean()) if errors_deg.size else float("nan")


def area_under_curve(errors: PairErrors, max_deg: int = 30, histogram: Histogram = "whole_degrees") -> float:
    """Mean over bins up to `max_deg` degrees of the share of pairs whose larger error is at most the bin's end: AUC, also called mAA.

    In [0, 1], higher is better, NaN without pairs. Errors that are infinite or NaN are misses.
    """
    if max_deg < 1:
        raise InputError(f"area under curve: max_deg = {max_deg}; must be a whole number of degrees, at least 1")
    larger = np.maximum(errors.rotation_deg, errors.translation_deg)
    if not larger.size:
        return float("nan")
    if histogram == "whole_degrees":
        edges = np.arange(max_deg + 1.0)
    elif histogram == "torch":
        edges = np.linspace(0, max_deg, max_deg + 2)
    else:
        raise InputError(f"histogram {histogram!r}: must be one of whole_degrees, torch")
    counts, _ = np.histogram(larger[np.isfinite(larger)], bins=edges)
    return float(np.mean(np.cumsum(counts)) / larger.size)
