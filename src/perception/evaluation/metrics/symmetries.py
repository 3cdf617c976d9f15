"""Motions that leave an object looking the same, from the description of its model in a BOP set (`models_info.json`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.geometry import se3, so3

MAX_STEP = 0.01
"""How far the point that is farthest from the axis moves in one step of a continuous symmetry, as a share of the diameter; BOP 2019."""


def symmetries_from_model_info(info: Mapping[str, Any], max_step: float = MAX_STEP, metres_per_unit: float = 0.001) -> NDArray[np.float64]:
    """Motions (num, 4, 4) in the object's frame, in metres, the identity first.

    info: entry of one object, with `symmetries_discrete` (lists of 16 numbers, row by row) and `symmetries_continuous` (`axis` and `offset`, a
    point on it), both optional, lengths in units of `metres_per_unit` (BOP: millimetres). A continuous symmetry becomes ceil(pi / max_step) equal
    turns; with several axes each is turned about alone, and every turn follows every discrete symmetry. Source: bop_toolkit
    `get_symmetry_transformations`.
    """
    if not 0.0 < max_step <= np.pi:
        raise InputError(f"max_step = {max_step}: must lie in (0, pi], as a share of the diameter")
    discrete = [np.eye(4), *(_discrete(values, metres_per_unit) for values in info.get("symmetries_discrete", ()))]
    turns = [_turns(symmetry, max_step, metres_per_unit) for symmetry in info.get("symmetries_continuous", ())]
    if not turns:
        return np.stack(discrete)
    return (np.concatenate(turns)[None] @ np.stack(discrete)[:, None]).reshape(-1, 4, 4)


def _discrete(values: Any, metres_per_unit: float) -> NDArray[np.float64]:
    motion = np.array(values, np.float64)
    if motion.size != 16:
        raise InputError(f"symmetries_discrete: an entry has {motion.size} numbers; must be 16, a 4x4 matrix row by row")
    motion = motion.reshape(4, 4)
    motion[:3, 3] *= metres_per_unit
    return motion


def _turns(symmetry: Mapping[str, Any], max_step: float, metres_per_unit: float) -> NDArray[np.float64]:
    if "axis" not in symmetry:
        raise InputError(f"symmetries_continuous: an entry has no `axis`, only {sorted(symmetry)}")
    axis = np.asarray(symmetry["axis"], np.float64)
    point = metres_per_unit * np.asarray(symmetry.get("offset", (0.0, 0.0, 0.0)), np.float64)
    if axis.shape != (3,) or not np.linalg.norm(axis) > 0 or point.shape != (3,):
        raise InputError(f"symmetries_continuous: axis {axis.tolist()}, offset {point.tolist()}; must be three numbers each, the axis not all zero")
    num_steps = math.ceil(np.pi / max_step)
    angles = np.arange(num_steps) * (2.0 * np.pi / num_steps)
    rotation = so3.exp(angles[:, None] * axis / np.linalg.norm(axis))
    return se3.from_rotation_translation(rotation, point - rotation @ point)
