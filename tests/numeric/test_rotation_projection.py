"""Nearest rotations of matrices and their gradient."""

import pytest
import torch

from perception.core.errors import InputError
from perception.geometry import so3
from perception.geometry.rotation_projection import nearest_rotation, rotation_from_nine


def random_matrices(*batch, seed=0):
    return torch.randn(*batch, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_results_are_proper_rotations_also_where_the_matrix_mirrors(batch):
    matrix = random_matrices(*batch)
    for candidate in (matrix, -matrix):
        rotation = nearest_rotation(candidate)
        torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(*batch, 3, 3))
        torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(batch, dtype=torch.float64))


def test_no_other_rotation_is_nearer():
    matrix = random_matrices(20)
    rotation = nearest_rotation(matrix)
    others = rotation[:, None] @ so3.exp(0.3 * torch.randn(20, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    assert (((matrix - rotation) ** 2).sum((-1, -2))[:, None] < ((matrix[:, None] - others) ** 2).sum((-1, -2))).all()


def test_nine_numbers_are_rows_of_any_length():
    rotation = so3.exp(torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64))
    lengths = torch.tensor([[0.1], [2.0], [30.0]], dtype=torch.float64)
    torch.testing.assert_close(rotation_from_nine((lengths * rotation).flatten(-2)), rotation)


def test_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(nearest_rotation, random_matrices(6, seed=2).requires_grad_())
    assert torch.autograd.gradcheck(rotation_from_nine, random_matrices(6, seed=3).flatten(-2).requires_grad_())


def test_gradient_is_right_at_rotations_where_that_of_an_svd_is_not_finite():
    rotation = so3.exp(torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(nearest_rotation, rotation)


@pytest.mark.parametrize("matrix", [torch.zeros(3, 3), -torch.eye(3), torch.ones(3, 3), torch.diag(torch.tensor([1.0, 0.0, 0.0]))])
def test_gradient_is_finite_where_the_rotation_is_left_open(matrix):
    matrix = matrix.clone().requires_grad_()
    rotation = nearest_rotation(matrix)
    (rotation * torch.arange(9.0).view(3, 3)).sum().backward()
    assert torch.isfinite(rotation).all()
    assert torch.isfinite(matrix.grad).all()


def test_half_precision_is_computed_in_float32_also_under_autocast():
    nine = torch.randn(4, 9, generator=torch.Generator().manual_seed(4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        rotation = rotation_from_nine(nine)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(4, 3, 3))


def test_other_than_nine_numbers_are_refused():
    with pytest.raises(InputError, match=r"\(2, 6\)"):
        rotation_from_nine(torch.zeros(2, 6))
