"""Track scores against the outputs of tapnet's `compute_tapvid_metrics`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.support.closeness import PARITY, assert_close

from perception.evaluation.metrics.tracking import THRESHOLDS_PX, track_scores

FILE = PARITY / "features-and-metrics" / "tapvid2d.npz"
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


@pytest.mark.parametrize(("arrays", "meta"), cases())
def test_track_scores_reproduce_compute_tapvid_metrics(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    scores = track_scores(
        arrays["pred_tracks"],
        arrays["pred_occluded"],
        arrays["gt_tracks"],
        arrays["gt_occluded"],
        arrays["query_points"][..., 0],
        meta["query_mode"],
        per_track=meta["trackwise"],
    )
    single = arrays["pred_tracks"].dtype == np.float32 or arrays["gt_tracks"].dtype == np.float32
    closeness = {"rtol": 0.0, "atol": 1e-6 if single else 1e-12}
    assert_close(scores.occlusion_accuracy, arrays["m_occlusion_accuracy"], **closeness)
    for index, threshold in enumerate(THRESHOLDS_PX):
        assert_close(scores.points_within[..., index], arrays[f"m_pts_within_{threshold:.0f}"], **closeness)
        assert_close(scores.jaccard[..., index], arrays[f"m_jaccard_{threshold:.0f}"], **closeness)
    assert_close(scores.average_points_within, arrays["m_average_pts_within_thresh"], **closeness)
    assert_close(scores.average_jaccard, arrays["m_average_jaccard"], **closeness)
