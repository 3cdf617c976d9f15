"""APE, PCDP and PCK by hand; the search over pixels against one that makes the whole map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.types import Grid
from perception.evaluation.metrics.correspondence import DenseScore, pck, pixel_error, weighted_mean
from perception.ops import pixel_search
from perception.ops.pixel_search import nearest_pixels
from perception.ops.sampling import sample_map, stratified_grid
from perception_training.benchmarks import pf_pascal


def plain_nearest(queries: torch.Tensor, descriptors: torch.Tensor, grid: Grid, width: int, height: int) -> np.ndarray:
    pixels = stratified_grid(height, width, 1)
    upsampled = sample_map(descriptors[None], pixels[None], grid, normalize=False)[0]
    return pixels[(queries @ upsampled.T).argmax(dim=1).numpy()]


@given(st.integers(0, 2**32 - 1), st.sampled_from([(7.0, 14.0), (6.5, 14.0), (1.5, 4.0), (7.5, 16.0), (3.3, 5.7), (-2.0, 6.0), (0.0, 0.5)]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_nearest_pixels_equal_a_search_over_the_whole_map(seed: int, axis: tuple[float, float]) -> None:
    random = torch.Generator().manual_seed(seed)
    rows, cols, width, height = (int(torch.randint(low, high, (1,), generator=random)) for low, high in ((1, 7), (1, 7), (1, 80), (1, 80)))
    descriptors = torch.randn(5, rows, cols, generator=random, dtype=torch.float64)
    queries = torch.randn(11, 5, generator=random, dtype=torch.float64)
    grid = Grid((axis[0], axis[0]), (axis[1], axis[1]))
    found = nearest_pixels(queries, descriptors, grid, width, height).numpy()
    expected = plain_nearest(queries, descriptors, grid, width, height)
    # Equal pixels apart, as on the constant border, both must have the same score.
    scores = [
        (queries * sample_map(descriptors[None], pixels[None], grid, normalize=False)[0]).sum(-1)
        for pixels in (found.astype(np.float64), expected.astype(np.float64))
    ]
    assert_close(scores[0], scores[1])
    assert (found >= 0).all()
    assert (found < (width, height)).all()


def test_equal_pixels_give_the_first_one_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left and above the first centre the map is constant: its very first pixel is found."""
    descriptors = torch.zeros(1, 3, 4)
    descriptors[0, 0, 0] = 1.0
    grid = Grid((7.0, 7.0), (14.0, 14.0))
    assert nearest_pixels(torch.ones(2, 1), descriptors, grid, 56, 42).tolist() == [[0, 0], [0, 0]]
    assert nearest_pixels(-torch.ones(1, 1), descriptors, grid, 56, 42).tolist() == [[21, 0]]
    assert nearest_pixels(torch.ones(0, 1), descriptors, grid, 56, 42).shape == (0, 2)
    random = torch.Generator().manual_seed(0)
    queries, descriptors = torch.randn(20, 8, generator=random), torch.randn(8, 9, 7, generator=random)
    whole = nearest_pixels(queries, descriptors, grid, 98, 126)
    monkeypatch.setattr(pixel_search, "_MAX_SCORES", 1)
    assert torch.equal(nearest_pixels(queries, descriptors, grid, 98, 126), whole)


def test_nearest_pixels_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match=r"\(3, 4\) and map \(5, 2, 2\)"):
        nearest_pixels(torch.zeros(3, 4), torch.zeros(5, 2, 2), Grid((0.0, 0.0), (1.0, 1.0)), 2, 2)


def test_dense_scores_by_hand() -> None:
    """Shortest edge 200 px; errors of 0, 5, 30 and 50 px."""
    true = np.zeros((4, 2))
    predicted = np.array([[0, 0], [3, 4], [0, 30], [50, 0]], float)
    score = DenseScore.of_pair(predicted, true, 300, 200)
    assert_close(score.ape_percent, 100 * 85 / 200 / 4)
    assert_close(score.pcdp_percent, np.array([50.0, 50.0, 75.0]))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_dense_scores_add_up_and_do_not_depend_on_scale_or_order(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, true = rng.uniform(0, 100, (2, 2 * num, 2))
    whole = DenseScore.of_pair(predicted, true, 100, 120)
    parts = DenseScore.of_pair(predicted[:num], true[:num], 100, 120) + DenseScore.of_pair(predicted[num:], true[num:], 100, 120)
    order = rng.permutation(2 * num)
    larger = DenseScore.of_pair(3 * predicted[order], 3 * true[order], 300, 360)
    for other in (parts, larger, DenseScore() + whole):
        assert_close(other.ape_percent, whole.ape_percent)
        assert_close(other.pcdp_percent, whole.pcdp_percent)
    perfect = DenseScore.of_pair(true, true, 100, 120)
    assert perfect.ape_percent == 0.0
    assert (perfect.pcdp_percent == 100.0).all()


def test_thresholds_are_strict() -> None:
    score = DenseScore.of_pair(np.array([[5.0, 0.0]]), np.zeros((1, 2)), 100, 100)
    assert score.pcdp_percent.tolist() == [0.0, 100.0, 100.0]
    assert pck(np.array([42.0]), 840).tolist() == [0.0, 1.0, 1.0]


def test_a_missing_prediction_is_a_miss_and_nothing_is_nan() -> None:
    lost = DenseScore.of_pair(np.array([[np.nan, 0.0], [0.0, 0.0]]), np.zeros((2, 2)), 100, 100)
    assert lost.ape_percent == np.inf
    assert lost.pcdp_percent.tolist() == [50.0] * 3
    assert np.isnan(DenseScore().ape_percent)
    assert np.isnan(DenseScore().pcdp_percent).all()
    assert np.isnan(pck(np.zeros(0), 840)).all()
    assert pck(np.array([np.nan, np.inf]), 840).tolist() == [0.0] * 3


def test_pck_takes_one_length_for_each_keypoint() -> None:
    assert_close(pck(np.array([9.0, 9.0]), np.array([100.0, 200.0]), (0.05, 0.1)), np.array([0.5, 1.0]))


def test_weighted_mean() -> None:
    assert_close(weighted_mean(np.array([[0.0, 1.0], [1.0, 1.0]]), (1, 3)), np.array([0.75, 1.0]))
    assert np.isnan(weighted_mean(np.array([np.nan, 1.0]), (1, 1)))
    with pytest.raises(InputError, match=r"\(3,\) weights for \(2,\)"):
        weighted_mean(np.zeros(2), (1, 1, 1))


def test_points_of_unequal_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 2\).*\(2, 2\)"):
        pixel_error(np.zeros((3, 2)), np.zeros((2, 2)))


def test_the_same_image_twice_finds_every_keypoint_in_its_own_cell() -> None:
    """Keypoints on cell centres of a map of distinct unit descriptors are found exactly there: PCK is 1 for every category."""
    random = torch.Generator().manual_seed(0)
    descriptors = torch.nn.functional.normalize(torch.randn(64, 60, 60, generator=random), dim=0)
    cells = np.random.default_rng(0).integers(1, 59, (8, 2))
    keypoints = np.concatenate([7.0 + 14.0 * cells, np.ones((8, 1))], axis=1)
    pair = np.stack([keypoints, keypoints])
    assert (pf_pascal.keypoint_errors(descriptors, descriptors, pair) == 0).all()
    pair[1, :5, 2] = 0
    assert pf_pascal.keypoint_errors(descriptors, descriptors, pair).shape == (3,)
    score = pf_pascal.score_categories({"bird": np.zeros(3), "cat": np.full(2, 100.0)})
    assert_close(score.weighted, np.array([10 / 37, 10 / 37, 1.0]))
    with pytest.raises(InputError, match=r"zebra.*aeroplane"):
        pf_pascal.score_categories({"zebra": np.zeros(3)})
    with pytest.raises(InputError, match=r"\(8, 3\).*\(2, n, 3\)"):
        pf_pascal.keypoint_errors(descriptors, descriptors, keypoints)
