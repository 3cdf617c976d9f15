"""The offline tracker against the outputs of the released 3DCorrEnhance program."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.core.types import Grid
from perception.ops.sampling import sample_map
from perception.ops.soft_argmax import soft_argmax
from perception.pipelines.point_tracker import PointTrackerConfig, locate_in_clip, track_clip

FILE = PARITY / "features-and-metrics" / "mef_tracker.npz"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is absent")]


def cases(prefix: str) -> list[str]:
    if not FILE.exists():
        return []
    with np.load(FILE) as arrays:
        return sorted(case for case in json.loads(str(arrays["meta_json"])) if case.startswith(prefix))


def load(case: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with np.load(FILE) as arrays:
        meta = json.loads(str(arrays["meta_json"]))[case]
        return meta, {name.split("/")[1]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(f"{case}/")}


def grid_of(meta: dict[str, Any]) -> Grid:
    """The program puts token centres at patch / 2 (its pixel corners are integers; ours are half-integers)."""
    return Grid((meta["patch"] / 2,) * 2, (meta["stride"],) * 2)


@pytest.mark.parametrize("case", cases("head"))
def test_soft_argmax(case: str) -> None:
    meta, arrays = load(case)
    points = soft_argmax(arrays["cost"][:, 0].relu(), grid_of(meta), meta["argmax_radius"])
    assert_close(points, arrays["xy"], atol=1e-2)


@pytest.mark.parametrize("case", cases("track"))
def test_track_clip(case: str) -> None:
    meta, arrays = load(case)
    config = PointTrackerConfig(radius_px=float(meta["argmax_radius"]), min_similarity=meta["cos"], anchor_similarity=meta["anchor_cos"])
    features, grid = arrays["features"], grid_of(meta)
    tracks = track_clip(features, arrays["query_xyt"], grid, config)
    expected = arrays["traj_xyt"]
    assert_close(tracks.points_px, expected[..., :2], atol=1e-2)
    assert_close(tracks.similarity, arrays["cos_sims"], atol=1e-4)
    thresholds = torch.tensor([meta["cos"], meta["anchor_cos"]])
    decided = ((arrays["cos_sims"][..., None] - thresholds).abs() > 1e-4).all(-1)
    assert torch.equal(tracks.occluded[decided], arrays["occluded"][decided])

    anchors = tracks.similarity[0] >= meta["anchor_cos"]
    along_track = torch.cat([sample_map(features[t], tracks.points_px[0, t][None], grid) for t in range(len(features))])
    assert_close(locate_in_clip(along_track, features[anchors], grid, config).transpose(0, 1), arrays["anchor_traj_q0"], atol=1e-2)
