"""The rotation nearest to a 3x3 matrix, with a gradient that stays finite; how networks predict rotations by nine numbers
(Levinson et al., NeurIPS 2020). torch only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from perception.core.errors import InputError

SMALLEST_SUM = 1e-4
"""Of two singular values (the last one signed), as a share of the largest: smaller sums are taken as this in the gradient, which then stays finite.
At a sum of 0 the rotation between the two axes is open."""
_NOTHING = 1e-30


def rotation_from_nine(nine: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of nine numbers (..., 9): the matrix row by row, each row scaled to length 1, then the nearest rotation.

    As in the camera head of Pi3 (`camera_head.py`), which writes the same thing as V diag(1, 1, det) U^T of the transpose's SVD. float32 or
    float64; half precision is computed and given back in float32. Raises InputError where the last dimension is not 9.
    """
    if nine.ndim < 1 or nine.shape[-1] != 9:
        raise InputError(f"nine numbers of a rotation: shape {tuple(nine.shape)}; must be (..., 9)")
    if nine.dtype not in (torch.float32, torch.float64):
        nine = nine.float()
    return nearest_rotation(torch.nn.functional.normalize(nine.unflatten(-1, (3, 3)), dim=-1))


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Rotations (..., 3, 3), determinant +1, that are nearest in squared difference to the matrices (..., 3, 3), float32 or float64.

    The gradient divides by sums of singular values and not, as that of an SVD does, by their differences: it is finite also at rotations, where
    all three are equal (Papadopoulo and Lourakis, ECCV 2000). Can be differentiated once.
    """
    rotation: Tensor = _NearestRotation.apply(matrix)
    return rotation


class _NearestRotation(torch.autograd.Function):
    """matrix = rotation @ stretch with a symmetric stretch = V diag(p) V^T: p are the singular values, the last with the sign of the determinant.

    A change of the matrix turns the rotation by the antisymmetric W, rotation_change = rotation @ W, and in the axes V
    W_ij (p_i + p_j) = A_ij - A_ji with A = rotation^T matrix_change; backward applies the transpose of this map.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        with torch.autocast(matrix.device.type, enabled=False):
            u, singular, vt = torch.linalg.svd(matrix)
            sign = torch.where(torch.linalg.det(u) * torch.linalg.det(vt) < 0, -1.0, 1.0).to(matrix.dtype)
            signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
            rotation = (u * signs[..., None, :]) @ vt
        ctx.save_for_backward(rotation, singular * signs, vt)
        return rotation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        rotation, stretches, vt = ctx.saved_tensors
        with torch.autocast(rotation.device.type, enabled=False):
            inner = vt @ rotation.mT @ gradients[0] @ vt.mT
            largest = stretches[..., :1, None]
            floor = torch.where(largest > _NOTHING, SMALLEST_SUM * largest, 1.0)
            sums = (stretches[..., :, None] + stretches[..., None, :]).clamp(min=floor)
            return rotation @ vt.mT @ ((inner - inner.mT) / sums) @ vt
