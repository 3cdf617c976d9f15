"""Track scores in space against the outputs of tapnet's `compute_tapvid3d_metrics`."""

import json

import numpy as np
import pytest
from tests.support.closeness import PARITY

from perception.evaluation.metrics.tracking import THRESHOLDS_PX
from perception.evaluation.metrics.tracking_3d import track_scores_3d

FILES = sorted(PARITY.rglob("tapvid3d*.npz"))
pytestmark = pytest.mark.parity


def cases():
    found = []
    for path in FILES:
        with np.load(path) as arrays:
            for case, settings in json.loads(str(arrays["meta_json"])).items():
                values = {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{case}/")}
                found.append(pytest.param(values, settings, id=f"{path.stem}-{case}"))
    return found


def by_track(values, order, *rest):
    """In our order: videos, tracks, frames."""
    names = order.split()
    wanted = [name for name in ("b", "n", "t") if name in names]
    return np.transpose(values, [*(names.index(name) for name in wanted), *(len(names) + k for k in range(len(rest)))])


@pytest.mark.parametrize(("arrays", "meta"), cases())
def test_track_scores_reproduce_compute_tapvid3d_metrics(arrays, meta):
    points, true_points = (by_track(arrays[f"{side}_tracks"], meta["order"], "xyz") for side in ("pred", "gt"))
    occluded, true_occluded = (by_track(arrays[f"{side}_occluded"], meta["order"]) for side in ("pred", "gt"))
    scores = track_scores_3d(
        points,
        occluded,
        true_points,
        true_occluded,
        intrinsics=None if meta["fixed"] else arrays["intrinsics"],
        scaling=meta["scaling"],
        query_frames=arrays["query_points"][..., 0],
        neighbourhood_m=meta["lnt"],
        per_track=meta["trackwise"],
    )
    if meta["raises"]:
        assert np.isfinite(scores.occlusion_accuracy).all(), "what the official code refuses is scored here"
        return
    closeness = {"rtol": 0.0, "atol": 1e-10}

    def check(ours, name):
        np.testing.assert_allclose(np.ravel(ours), np.ravel(arrays[name]), err_msg=name, **closeness)

    check(scores.occlusion_accuracy, "m_occlusion_accuracy")
    for index, threshold in enumerate(THRESHOLDS_PX):
        check(scores.points_within[..., index], f"m_pts_within_{threshold:.0f}")
        check(scores.jaccard[..., index], f"m_jaccard_{threshold:.0f}")
    check(scores.average_points_within, "m_average_pts_within_thresh")
    check(scores.average_jaccard, "m_average_jaccard")
