"""PCA colours: stable between images, in the right place, the same for any numeric type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception.core.errors import InputError
from perception.core.types import FeatureMap, Grid
from perception.viz.pca import FeaturePca


def feature_map(seed: int = 0, dim: int = 16, rows: int = 12, columns: int = 16, stride_px: float = 10.0, extractor: str = "sift") -> FeatureMap:
    descriptors = torch.nn.functional.normalize(torch.randn(dim, rows, columns, generator=torch.Generator().manual_seed(seed)), dim=0)
    grid = Grid((stride_px / 2 - 0.5,) * 2, (stride_px,) * 2)
    return FeatureMap(descriptors, grid, (round(rows * stride_px), round(columns * stride_px)), extractor, 0)


def test_colors_have_the_size_asked_for() -> None:
    assert FeaturePca().colorize(feature_map()).shape == (120, 160, 3)
    assert FeaturePca().colorize(feature_map(), (40, 50)).shape == (40, 50, 3)


def test_colors_stay_fixed_after_the_first_map() -> None:
    pca, first, second = FeaturePca(), feature_map(0), feature_map(1)
    before = pca.colorize(first)
    pca.colorize(second)
    assert (pca.colorize(first) == before).all()
    assert (FeaturePca().colorize(second) != pca.colorize(second)).any()


def test_main_direction_becomes_red_and_lies_at_its_cells() -> None:
    item = feature_map()
    descriptors = 0.01 * item.descriptors
    descriptors[3, :, 8:] += 1.0
    colors = FeaturePca().colorize(FeatureMap(descriptors, item.grid, item.image_size, item.extractor, 0)).astype(int)
    assert abs(colors[:, 90:, 0].mean() - colors[:, :70, 0].mean()) > 200
    middle = colors[:, :, 0].mean(axis=0)
    assert abs(middle[79] + middle[80] - 255) < 20  # the step lies between the columns of pixels 75 and 85: halfway at 79.5


def test_upsampling_is_bilinear_between_cell_centres() -> None:
    """Against interpolation along one axis by NumPy, with a grid offset that is not half a stride."""
    descriptors = torch.zeros(4, 5, 9)
    descriptors[0] = torch.linspace(0, 1, 9)
    item = FeatureMap(descriptors, Grid((3.0, 3.0), (8.0, 8.0)), (40, 72), "ramp", 0)
    pca = FeaturePca()
    at_cells = pca.colorize(item)[19, 3 : 3 + 8 * 8 + 1 : 8, 0].astype(float)
    whole = pca.colorize(item)[19, :, 0]
    np.testing.assert_allclose(whole, np.interp(np.arange(72), 3 + 8 * np.arange(9), at_cells), atol=2.0)


def test_bfloat16_and_fewer_than_three_dimensions() -> None:
    item = feature_map(dim=2)
    half = FeatureMap(item.descriptors.bfloat16(), item.grid, item.image_size, item.extractor, 0)
    difference = np.abs(FeaturePca().colorize(item).astype(int) - FeaturePca().colorize(half).astype(int))
    assert np.median(difference) <= 3


def test_constant_map_does_not_fail() -> None:
    item = FeatureMap(torch.ones(8, 4, 4), Grid((1.5, 1.5), (4.0, 4.0)), (16, 16), "flat", 0)
    assert FeaturePca().colorize(item).shape == (16, 16, 3)


def test_other_extractor_is_refused_until_reset() -> None:
    pca = FeaturePca()
    pca.fit([feature_map(0), feature_map(1)])
    with pytest.raises(InputError, match="alike"):
        pca.colorize(feature_map(extractor="alike"))
    pca.reset()
    assert not pca.is_fitted
    pca.colorize(feature_map(extractor="alike"))


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="at least one"):
        FeaturePca().fit([])
    with pytest.raises(InputError, match="sift"):
        FeaturePca().fit([feature_map(), feature_map(extractor="alike")])
    with pytest.raises(InputError, match="num_fit = 1"):
        FeaturePca(num_fit=1)
