"""The nearest neighbours against a plain search over all distances, and how much memory they take."""

import pytest
import torch

from perception.core.errors import InputError
from perception.ops.nearest_neighbours import nearest_neighbours


def cloud(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distances(queries, references, indices):
    """Of the found ones (…, n, k), in float64."""
    all_distances = (queries.double()[..., :, None, :] - references.double()[..., None, :, :]).norm(dim=-1)
    return all_distances, all_distances.gather(-1, indices)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("max_distances", [1, 700, None])
@pytest.mark.parametrize(("num_references", "k", "dim"), [(16, 16, 3), (17, 16, 3), (300, 16, 3), (501, 1, 2), (97, 5, 4)])
def test_the_found_ones_are_the_nearest_and_in_order(batch, max_distances, num_references, k, dim):
    queries, references = cloud(*batch, 23, dim), cloud(*batch, num_references, dim, seed=1)
    found = nearest_neighbours(queries, references, k, max_distances)
    assert found.shape == (*batch, 23, k)
    assert found.dtype == torch.int64
    everything, chosen = distances(queries, references, found)
    assert torch.equal(found, everything.topk(k, largest=False).indices)
    assert bool((chosen.diff(dim=-1) >= 0).all())


def test_neighbours_in_a_point_map_are_found_where_successive_points_lie_close_together():
    """Groups of successive references are then small in space, and a single one may hold all neighbours."""
    rows, cols = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    references = torch.stack([cols / 10, rows / 10, 0.3 * torch.sin(cols / 7)], dim=-1).reshape(-1, 3) + 1e-3 * cloud(2000, 3)
    queries = references[::37] + 1e-2
    found = nearest_neighbours(queries, references, 16)
    assert torch.equal(found, distances(queries, references, found)[0].topk(16, largest=False).indices)


def test_small_differences_far_from_the_origin_are_told_apart():
    """An expanded square |q|² - 2 q r + |r|² would lose them in float32."""
    references = 1000 + torch.arange(200.0)[:, None] * torch.tensor([0.001, 0, 0])
    found = nearest_neighbours(references[50:60], references, 1)
    assert found[:, 0].tolist() == list(range(50, 60))


def test_half_precision_is_searched_in_single():
    queries, references = cloud(10, 3).bfloat16(), cloud(200, 3, seed=1).bfloat16()
    found = nearest_neighbours(queries, references, 4)
    everything, chosen = distances(queries, references, found)
    assert torch.equal(chosen, everything.topk(4, largest=False).values)


def test_equal_points_are_all_found_once():
    references = torch.cat([torch.zeros(20, 3), torch.ones(30, 3)])
    found = nearest_neighbours(torch.zeros(1, 3), references, 20)
    assert sorted(found[0].tolist()) == list(range(20))


def test_references_that_are_not_finite_come_last():
    references = cloud(100, 3)
    references[::3], references[1] = torch.nan, torch.inf
    found = nearest_neighbours(cloud(5, 3, seed=1), references, 40)
    assert not bool(((found % 3 == 0) | (found == 1)).any())


def test_a_query_with_nan_gets_valid_indices():
    found = nearest_neighbours(torch.full((1, 3), torch.nan), cloud(50, 3), 4)
    assert bool(((found >= 0) & (found < 50)).all())


def test_gradients_are_not_recorded():
    queries = cloud(4, 3).requires_grad_()
    assert not nearest_neighbours(queries, cloud(50, 3), 4).requires_grad


@pytest.mark.parametrize(
    ("queries", "references", "k", "message"),
    [
        ((4, 3), (50, 2), 1, "must be"),
        ((2, 4, 3), (50, 3), 1, "must be"),
        ((3,), (50, 3), 1, "must be"),
        ((4, 3), (50, 3), 51, r"must lie in \[1, 50\]"),
        ((4, 3), (50, 3), 0, "must lie in"),
    ],
)
def test_shapes_that_do_not_fit_are_named(queries, references, k, message):
    with pytest.raises(InputError, match=message):
        nearest_neighbours(torch.zeros(queries), torch.zeros(references), k)


def largest_tensor(function):
    """The most numbers that any result of an operation inside has."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else (result,):
                if isinstance(value, torch.Tensor):
                    self.most = max(self.most, value.untyped_storage().nbytes() // value.element_size())
            return result

    with Recorder() as recorder:
        function()
    return recorder.most


def test_no_tensor_grows_with_the_product_of_both_numbers():
    queries, references, limit = cloud(700, 3), cloud(5000, 3, seed=1), 1 << 15
    most = largest_tensor(lambda: nearest_neighbours(queries, references, 16, limit))
    assert most <= limit + 2 * references.numel()
    assert most < queries.shape[0] * references.shape[0] / 100
