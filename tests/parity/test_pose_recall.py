"""Pose errors against the outputs of OnePose++ (`pose_recall`) and of the BOP toolkit (`bop_errors`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support.closeness import PARITY, assert_close

from perception.evaluation.metrics.pose import add_error_m, adi_error_m, pose_recall, rotation_error_deg, translation_error_cm

FOLDER = PARITY / "features-and-metrics"
METRES_PER_UNIT = {"m": 1.0, "cm": 0.01, "mm": 0.001}
pytestmark = pytest.mark.parity


def cases(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with np.load(file) as arrays:
        return sorted({name.split("/")[0] for name in arrays.files if "/" in name})


def case_arrays(file: Path, case: str) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(file) as arrays:
        meta = json.loads(str(arrays["meta_json"])) if "meta_json" in arrays.files else {}
        return {name.split("/", 1)[1]: arrays[name] for name in arrays.files if name.startswith(f"{case}/")}, meta.get(case, {})


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no parity fixtures")
@pytest.mark.parametrize("case", cases(FOLDER / "pose_recall.npz"))
def test_pose_recall(case: str) -> None:
    arrays, meta = case_arrays(FOLDER / "pose_recall.npz", case)
    scale = METRES_PER_UNIT[meta["unit"]]
    estimated, true = arrays["pose_pred"].copy(), arrays["pose_gt"].copy()
    estimated[:, :3, 3] *= scale
    true[:, :3, 3] *= scale
    rotation_deg, translation_cm = rotation_error_deg(estimated, true), translation_error_cm(estimated, true)
    near_zero = arrays["rot_err_deg"] < 0.1
    assert_close(rotation_deg[~near_zero], arrays["rot_err_deg"][~near_zero], rtol=0, atol=1e-4)
    assert_close(rotation_deg[near_zero], arrays["rot_err_deg"][near_zero], rtol=0, atol=1e-3)
    assert_close(translation_cm, arrays["trans_err_cm"], rtol=0, atol=1e-9)
    assert pose_recall(rotation_deg, translation_cm).tolist() == arrays["recall_1_3_5"].tolist()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no parity fixtures")
@pytest.mark.parametrize("case", cases(FOLDER / "bop_errors.npz"))
def test_add_and_adi(case: str) -> None:
    """The BOP toolkit works in millimetres."""
    arrays, _ = case_arrays(FOLDER / "bop_errors.npz", case)
    estimated, true = np.eye(4), np.eye(4)
    estimated[:3, :3], estimated[:3, 3:] = arrays["R_est"], 0.001 * arrays["t_est"]
    true[:3, :3], true[:3, 3:] = arrays["R_gt"], 0.001 * arrays["t_gt"]
    points_object = 0.001 * arrays["pts"]
    assert_close(1000.0 * add_error_m(estimated, true, points_object), arrays["add"], rtol=0, atol=1e-9)
    assert_close(1000.0 * adi_error_m(estimated, true, points_object), arrays["adi"], rtol=0, atol=1e-9)
    # The arc cosine of the trace amplifies rounding at its ends.
    at_the_ends = not 0.1 < arrays["re_deg"] < 179.9
    assert_close(rotation_error_deg(estimated, true), arrays["re_deg"], rtol=0, atol=1e-5 if at_the_ends else 1e-9)
    assert_close(10.0 * translation_error_cm(estimated, true), arrays["te"], rtol=0, atol=1e-9)
