"""Transfer of keypoints and PCK against MEF's `semantic_transfer`, run with given tokens in place of a network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.core.types import Grid
from perception.evaluation.metrics.correspondence import KEYPOINT_ALPHAS, pck, pixel_error, weighted_mean
from perception.ops.sampling import letterbox_keypoints
from perception_training.benchmarks import pf_pascal

FILE = PARITY / "features-and-metrics" / "pfpascal_pck.npz"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not FILE.is_file(), reason=f"no fixtures at {FILE}")]


def cases() -> list[Any]:
    if not FILE.is_file():
        return []
    with np.load(FILE) as arrays:
        meta = json.loads(str(arrays["meta_json"]))
        return [
            pytest.param({key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{case}/")}, settings, id=case)
            for case, settings in meta.items()
        ]


def maps(arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """Descriptor maps (images, dim, rows, cols)."""
    tokens = torch.from_numpy(arrays["features"].astype(np.float32))
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def grid_of(meta: dict[str, Any]) -> Grid:
    return Grid((meta["patch"] / 2,) * 2, (float(meta["stride"]),) * 2)


def in_both(arrays: dict[str, np.ndarray], pair: int) -> np.ndarray:
    return (arrays["kps_padded"][2 * pair : 2 * pair + 2, :, 2] > 0).all(axis=0)


@pytest.mark.parametrize(("arrays", "meta"), cases())
def test_keypoints_are_brought_into_the_square(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    for raw, padded in zip(arrays["kps_raw"], arrays["kps_padded"], strict=True):
        moved, _, _ = letterbox_keypoints(raw, *meta["src_size_wh"], meta["img_size"])
        assert_close(moved, padded, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("arrays", "meta"), cases())
def test_keypoints_of_the_last_category_are_found_where_published(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Exact but for ties: at most one keypoint may differ, by one pixel."""
    features, grid = maps(arrays), grid_of(meta)
    found, true = [], []
    for pair in range((meta["ncat"] - 1) * meta["npair"], meta["ncat"] * meta["npair"]):
        common = in_both(arrays, pair)
        source, target = arrays["kps_padded"][2 * pair][common, :2], arrays["kps_padded"][2 * pair + 1][common, :2]
        found.append(pf_pascal.transfer_keypoints(features[2 * pair], features[2 * pair + 1], source, grid, meta["img_size"]))
        true.append(target)
    assert_close(np.concatenate(true)[:, ::-1], arrays["last_cat_gt_yx"], rtol=0, atol=0)
    offset = np.abs(np.concatenate(found)[:, ::-1] - arrays["last_cat_pred_yx"])
    assert offset.max() <= 1
    assert np.any(offset > 0, axis=1).sum() <= 1


@pytest.mark.parametrize(("arrays", "meta"), cases())
def test_pck_by_category_and_weighted_as_published(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    features, keypoints, grid = maps(arrays), arrays["kps_padded"], grid_of(meta)
    errors = {}
    for index, category in enumerate(list(pf_pascal.WEIGHTS)[: meta["ncat"]]):
        pairs = range(index * meta["npair"], (index + 1) * meta["npair"])
        errors[category] = np.concatenate(
            [
                pf_pascal.keypoint_errors(features[2 * pair], features[2 * pair + 1], keypoints[2 * pair : 2 * pair + 2], grid, meta["img_size"])
                for pair in pairs
            ]
        )
    score = pf_pascal.score_categories(errors, meta["img_size"])
    assert list(pf_pascal.WEIGHTS.values())[: meta["ncat"]] == meta["weights"]
    for column, name in enumerate(("05", "10", "15")):
        assert_close(np.stack(list(score.by_category.values()))[:, column], arrays[f"pck{name}"], rtol=0, atol=1e-6)
        assert_close(score.weighted[column], arrays[f"w{name}"], rtol=0, atol=1e-6)
        assert_close(weighted_mean(arrays[f"pck{name}"], meta["weights"]), arrays[f"w{name}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("arrays", "meta"), cases())
def test_pck_of_the_published_predictions(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    errors = pixel_error(arrays["last_cat_pred_yx"], arrays["last_cat_gt_yx"])
    expected = np.array([arrays[f"pck{name}"][-1] for name in ("05", "10", "15")])
    assert_close(pck(errors, meta["img_size"], KEYPOINT_ALPHAS), expected, rtol=0, atol=1e-6)
