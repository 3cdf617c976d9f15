import numpy as np
import torch

from perception.core.types import Grid
from perception.geometry import se3
from perception.ops.subcell import refine_to_subcell
from perception.pipelines.temporal_prior import TemporalPrior


def smooth_map(phase_px: float, stride: float = 4.0, offset: float = 2.0) -> torch.Tensor:
    """Descriptors that vary smoothly with the position: products of cosines of x and y at a few periods."""
    x = torch.arange(20) * stride + offset + phase_px
    y = torch.arange(15) * stride + offset
    rows = [
        torch.cos(torch.outer(torch.ones(15), x) / p + a) * torch.cos(torch.outer(y, torch.ones(20)) / q + b)
        for p, q, a, b in np.random.default_rng(0).uniform(6, 30, (24, 4))
    ]
    return torch.nn.functional.normalize(torch.stack(rows), dim=0)


def test_shift_of_a_fraction_of_a_cell_is_recovered():
    grid = Grid((2.0, 2.0), (4.0, 4.0))
    original, shifted = smooth_map(0.0), smooth_map(1.2)
    rows, cols = torch.meshgrid(torch.arange(2, 13), torch.arange(2, 18), indexing="ij")
    points = torch.stack([cols.flatten() * 4.0 + 2, rows.flatten() * 4.0 + 2], 1)
    targets = original[:, rows.flatten(), cols.flatten()].T
    refined = refine_to_subcell(shifted, grid, points, targets)
    error = (refined - points) - torch.tensor([-1.2, 0.0])
    assert error.norm(dim=1).median() < 0.4
    assert error.mean(0).norm() < 0.15


def test_border_cells_and_tiny_maps_stay():
    grid = Grid((0.0, 0.0), (4.0, 4.0))
    descriptors = smooth_map(0.0)
    corner = torch.tensor([[0.0, 0.0]])
    assert torch.equal(refine_to_subcell(descriptors, grid, corner, descriptors[:, 0, 0][None]), corner)
    assert torch.equal(refine_to_subcell(descriptors[:, :2, :2], grid, corner, descriptors[:, 0, 0][None]), corner)


def pose_at(seconds: float) -> np.ndarray:
    return se3.exp(np.array([0.1, 0, 0, 0, 0, 0.2]) * seconds)


def test_prior_extrapolates_half_of_the_motion():
    prior = TemporalPrior()
    assert prior.predict(0, 1.0) is None
    prior.update(10**9, pose_at(1.0))
    assert np.allclose(prior.predict(int(1.1e9), 1.0), pose_at(1.0))
    prior.update(int(1.1e9), pose_at(1.1))
    assert np.allclose(prior.predict(int(1.2e9), 1.0), pose_at(1.15), atol=1e-9)


def test_prior_is_silent_when_old_or_time_runs_back():
    prior = TemporalPrior()
    prior.update(10**9, pose_at(1.0))
    assert prior.predict(3 * 10**9, 1.0) is None
    assert prior.predict(10**8, 1.0) is None
    prior.update(10**8, pose_at(0.1))
    assert np.allclose(prior.predict(2 * 10**8, 1.0), pose_at(0.1))
