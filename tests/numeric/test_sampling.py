"""Sampling of dense maps, grids, thinning and clustering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from tests.support.closeness import assert_close
from tests.support.scenes import unit_descriptors

from perception.core.errors import InputError
from perception.core.types import Grid
from perception.ops.clustering import assign, kmeans
from perception.ops.farthest_point import farthest_point_indices
from perception.ops.sampling import sample_map, stratified_grid

GRID = Grid((3.5, 4.0), (8.0, 6.0))


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_map_is_sampled_exactly_and_clamped_at_the_border(batch, dtype):
    row, col = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    descriptors = torch.stack([col, row, 2 * col - row]).to(dtype).expand(*batch, 3, 5, 7)
    points = torch.tensor([[3.5, 4.0], [13.5, 13.0], [-50.0, 10.0], [900.0, 900.0]]).expand(*batch, 4, 2)
    sampled = sample_map(descriptors, points, GRID, normalize=False)
    assert sampled.dtype == dtype
    expected = torch.tensor([[0.0, 0.0, 0.0], [1.25, 1.5, 1.0], [0.0, 1.0, -1.0], [6.0, 4.0, 8.0]]).expand(*batch, 4, 3)
    assert_close(sampled.float(), expected)


def test_sampled_descriptors_have_unit_length_and_gradients():
    generator = torch.Generator().manual_seed(0)
    descriptors = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    points = (torch.rand(2, 3, 2, dtype=torch.float64, generator=generator) * 20 + 5).requires_grad_()
    assert_close(sample_map(descriptors, points, GRID).detach().norm(dim=-1), torch.ones(2, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda d, p: sample_map(d, p, GRID), (descriptors, points))


def test_nan_points_give_nan_and_wrong_shapes_are_named():
    sampled = sample_map(torch.ones(2, 3, 3), np.array([[np.nan, 1.0], [1.0, 1.0]]), GRID)
    assert sampled.isnan().any(dim=-1).tolist() == [True, False]
    with pytest.raises(InputError, match="leading dimensions"):
        sample_map(torch.ones(2, 3, 3), np.zeros((1, 5, 2)), GRID)


def test_stratified_grid_starts_at_zero_and_keeps_to_the_mask():
    points = stratified_grid(6, 9, 4)
    assert points.dtype == np.float32
    assert points.tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4]]
    mask = np.zeros((6, 9), bool)
    mask[4, 8] = True
    assert stratified_grid(6, 9, 4, mask).tolist() == [[8, 4]]
    with pytest.raises(InputError, match="mask"):
        stratified_grid(6, 9, 4, mask[:5])
    with pytest.raises(InputError, match="stride"):
        stratified_grid(6, 9, 0)


def plain_farthest_points(points: np.ndarray, num: int, first: int) -> list[int]:
    chosen = [first]
    while len(chosen) < num:
        chosen.append(int(np.linalg.norm(points[:, None] - points[chosen], axis=-1).min(axis=1).argmax()))
    return chosen


def test_farthest_points_equal_the_plain_twin_on_small_sets():
    points = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    found = farthest_point_indices(points, 25, seed=3)
    assert found.tolist() == plain_farthest_points(points, 25, int(found[0]))


def test_thinning_a_large_set_covers_it_evenly():
    points = np.random.default_rng(1).normal(size=(40_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = farthest_point_indices(points, 1000)
    assert len(set(found.tolist())) == 1000
    covering = cKDTree(points[found]).query(points)[0].max()
    spacing = cKDTree(points[found]).query(points[found], k=2)[0][:, 1].min()
    radius = 2 * np.sqrt(4 * np.pi / 1000 / np.pi)  # twice the radius of a disc with a thousandth of the sphere
    assert covering < radius
    assert spacing > 0.3 * radius
    assert (found == farthest_point_indices(points, 1000)).all()


def test_thinning_of_duplicates_and_of_unfit_input():
    assert sorted(farthest_point_indices(np.zeros((9, 3)), 9).tolist()) == list(range(9))
    assert len(farthest_point_indices(np.zeros((50, 3)), 2)) == 2
    assert farthest_point_indices(np.zeros((0, 3)), 0).shape == (0,)
    with pytest.raises(InputError, match="num = 5"):
        farthest_point_indices(np.zeros((4, 3)), 5)
    with pytest.raises(InputError, match="NaN"):
        farthest_point_indices(np.full((4, 3), np.nan), 2)


def test_kmeans_finds_well_separated_clusters():
    centres = 5 * unit_descriptors(6, 16, 0)
    truth = np.arange(600) % 6
    descriptors = (centres[truth] + 0.1 * np.random.default_rng(1).normal(size=(600, 16))).astype(np.float32)
    found = kmeans(descriptors, 6, 20, seed=0)
    labels = assign(descriptors, found).numpy()
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 6
    assert_close(found[labels[0]], descriptors[truth == truth[0]].mean(axis=0))
    assert torch.equal(found, kmeans(torch.from_numpy(descriptors), 6, 20, seed=0))


def test_kmeans_never_gets_worse_and_survives_duplicates():
    descriptors = torch.from_numpy(unit_descriptors(500, 8, 2))

    def spread(centres: torch.Tensor) -> float:
        return float(((descriptors - centres[assign(descriptors, centres)]) ** 2).sum())

    assert spread(kmeans(descriptors, 20, 0)) >= spread(kmeans(descriptors, 20, 5)) >= spread(kmeans(descriptors, 20, 30))
    same = kmeans(np.ones((10, 4), np.float16), 3, 5)
    assert torch.equal(same, torch.ones(3, 4))
    with pytest.raises(InputError, match="num_clusters = 11"):
        kmeans(np.ones((10, 4), np.float32), 11)
