"""Rotations and rigid motions: invariants, batch dimensions, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation
from tests.support.closeness import assert_close

from perception.geometry import se3, so3

BATCHES = [(), (2,), (1, 2)]
ANGLES = st.one_of(st.floats(0, np.pi), st.floats(0, 1e-6), st.floats(np.pi - 1e-6, np.pi - 1e-9))


def rotation_vector(seed: int, angle: float, batch: tuple[int, ...] = ()) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=(*batch, 3))
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True) * angle


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), angle=ANGLES)
def test_log_undoes_exp_at_every_angle(seed, angle):
    vector = rotation_vector(seed, angle)
    assert_close(so3.log(so3.exp(vector)), vector, atol=1e-12, rtol=1e-9)
    assert_close(so3.rotation_angle(so3.exp(vector)), np.float64(angle), atol=1e-12)
    twist = np.concatenate([np.random.default_rng(seed + 1).normal(size=3), vector])
    assert_close(se3.log(se3.exp(twist)), twist)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 0.19, 0.21, 1.0, 3.0, np.pi])
def test_exp_equals_the_matrix_exponential(angle):
    vector = rotation_vector(3, angle)
    assert_close(so3.exp(vector), expm(so3.hat(vector)))
    generator = np.zeros((4, 4))
    generator[:3, :3], generator[:3, 3] = so3.hat(vector), [0.3, -0.2, 1.0]
    assert_close(se3.exp(np.concatenate([generator[:3, 3], vector])), expm(generator))


def test_a_half_turn_has_a_logarithm_of_length_pi():
    for axis in np.eye(3):
        rotation = 2 * np.outer(axis, axis) - np.eye(3)
        assert_close(so3.exp(so3.log(rotation)), rotation)
        assert_close(np.linalg.norm(so3.log(rotation)), np.pi)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), angle=ANGLES)
def test_quaternions_agree_with_scipy(seed, angle):
    rotation = so3.exp(rotation_vector(seed, angle))
    quaternion = so3.to_quaternion_xyzw(rotation)
    assert quaternion[3] >= 0
    assert_close(so3.from_quaternion_xyzw(quaternion), rotation)
    assert_close(so3.from_quaternion_xyzw(2.5 * quaternion), rotation)
    assert_close(Rotation.from_quat(quaternion).as_matrix(), rotation)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_torch_agree_in_all_batch_dimensions(batch, dtype):
    twist = np.random.default_rng(0).normal(size=(*batch, 6)).astype(dtype)
    a_from_b = se3.exp(twist)
    points = np.random.default_rng(1).normal(size=(*batch, 5, 3)).astype(dtype)
    assert a_from_b.shape == (*batch, 4, 4)
    assert a_from_b.dtype == twist.dtype
    twice = torch.from_numpy(twist)
    for function in (se3.exp, lambda t: se3.log(se3.exp(t)), lambda t: se3.inverse(se3.exp(t)), lambda t: so3.rotation_angle(so3.exp(t[..., 3:]))):
        result = function(twice)
        assert str(result.dtype).endswith(dtype)
        assert_close(result, function(twist))
    assert_close(se3.transform_points(torch.from_numpy(a_from_b), torch.from_numpy(points)), se3.transform_points(a_from_b, points))
    back = se3.transform_points(se3.inverse(a_from_b), se3.transform_points(a_from_b, points))
    assert_close(back, points, atol=1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 0.15, 1.0, 3.0])
def test_gradients(scale):
    twist = torch.tensor(np.concatenate([[0.3, -0.2, 0.5], rotation_vector(5, scale)]), requires_grad=True)
    assert torch.autograd.gradcheck(se3.exp, twist)
    assert torch.autograd.gradcheck(lambda t: se3.log(se3.exp(t)), twist)
    assert torch.autograd.gradcheck(lambda t: so3.to_quaternion_xyzw(so3.exp(t[3:])), twist)


@pytest.mark.parametrize("batch", BATCHES)
def test_interpolation_starts_at_the_start_and_ends_at_the_end(batch):
    rng = np.random.default_rng(2)
    start, end = se3.exp(rng.normal(size=(*batch, 6))), se3.exp(rng.normal(size=(*batch, 6)))
    assert_close(se3.interpolate(start, end, 0.0), start)
    assert_close(se3.interpolate(start, end, 1.0), end)
    middle = se3.interpolate(start, end, 0.5)
    assert_close(middle[..., :3, 3], (start + end)[..., :3, 3] / 2)
    turn = [so3.rotation_angle(np.swapaxes(a[..., :3, :3], -1, -2) @ b[..., :3, :3]) for a, b in ((start, middle), (middle, end))]
    assert_close(turn[0], turn[1])
