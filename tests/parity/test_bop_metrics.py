"""BOP pose errors and average recall against the outputs of bop_toolkit (`bop_errors`, `bop_ar`), which works in millimetres."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.support.closeness import PARITY, assert_close

from perception.core.types import Camera
from perception.evaluation.metrics import bop_recall
from perception.evaluation.metrics.bop_errors import TAUS, mspd_error_px, mssd_error_m, projection_error_px, visible_surface_discrepancy
from perception.evaluation.metrics.bop_recall import ObjectErrors, average_recall
from perception.evaluation.metrics.symmetries import symmetries_from_model_info

FOLDER = PARITY / "features-and-metrics"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not (FOLDER / "bop_errors.npz").is_file(), reason=f"no fixtures in {FOLDER}")]


def cases(name: str) -> list[Any]:
    file = FOLDER / f"{name}.npz"
    if not file.is_file():
        return []
    with np.load(file) as arrays:
        meta = json.loads(str(arrays["meta_json"]))
        names = sorted(key for key in arrays.files if "/" in key)
        return [
            pytest.param({key.split("/", 1)[1]: arrays[key] for key in names if key.startswith(f"{case}/")}, meta[case], id=case) for case in meta
        ]


def pose(arrays: dict[str, np.ndarray], which: str) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3:] = arrays[f"R_{which}"], 0.001 * arrays[f"t_{which}"]
    return matrix


@pytest.mark.parametrize(("arrays", "meta"), cases("bop_errors"))
def test_symmetries(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    motions = symmetries_from_model_info(json.loads(str(arrays["model_info"])), meta["max_sym_disc_step"])
    assert len(motions) == meta["n_syms"]
    if len(arrays["sym_R"]):
        assert_close(motions[:, :3, :3], arrays["sym_R"], rtol=0, atol=1e-12)
        assert_close(1000.0 * motions[:, :3, 3:], arrays["sym_t"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("arrays", "meta"), cases("bop_errors"))
def test_errors_of_model_points(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    estimated, true, points = pose(arrays, "est"), pose(arrays, "gt"), 0.001 * arrays["pts"]
    camera = Camera.from_matrix(arrays["K"], *arrays["depth_gt"].shape[::-1])
    motions = symmetries_from_model_info(json.loads(str(arrays["model_info"])), meta["max_sym_disc_step"])
    assert_close(1000.0 * mssd_error_m(estimated, true, points, motions), arrays["mssd"], rtol=0, atol=1e-9)
    assert_close(mspd_error_px(estimated, true, points, camera, motions), arrays["mspd"], rtol=0, atol=1e-9)
    assert_close(projection_error_px(estimated, true, points, camera), arrays["proj"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("arrays", "meta"), cases("bop_errors"))
@pytest.mark.parametrize(("cost", "suffix"), [("step", "step"), ("linear", "tlinear")])
def test_visible_surface_discrepancy(arrays: dict[str, np.ndarray], meta: dict[str, Any], cost: Any, suffix: str) -> None:
    depths_m = [0.001 * arrays[f"depth_{name}"] for name in ("est", "gt", "test")]
    camera = Camera.from_matrix(arrays["K"], *arrays["depth_gt"].shape[::-1])
    tolerance_m = 0.001 * meta["delta_mm"]
    relative = visible_surface_discrepancy(*depths_m, camera, 0.001 * meta["diameter_mm"], tolerance_m, tuple(meta["taus_norm"]), cost)
    assert_close(relative, arrays[f"vsd_norm_{suffix}"], rtol=0, atol=1e-12)
    absolute = visible_surface_discrepancy(*depths_m, camera, 1.0, tolerance_m, tuple(0.001 * tau for tau in meta["taus_abs"]), cost)
    assert_close(absolute, arrays[f"vsd_abs_{suffix}"], rtol=0, atol=1e-12)
    assert tuple(meta["taus_norm"]) == TAUS


def groups(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> list[ObjectErrors]:
    """One for each image and object that has true poses, as the toolkit goes through them."""
    truth, table, found = arrays["gt_table"], arrays["est_gt_table"], []
    for image, obj in sorted({(row[0], row[2]) for row in truth}):
        true = truth[(truth[:, 0] == image) & (truth[:, 2] == obj)]
        rows = table[(table[:, 0] == image) & (table[:, 1] == obj)]
        estimates, first = np.unique(rows[:, 2], return_index=True)
        errors = np.full((len(estimates), len(true), 12), np.nan)
        for row in rows:
            errors[np.searchsorted(estimates, row[2]), np.flatnonzero(true[:, 1] == row[4])[0]] = row[5:]
        scores, diameter_m = rows[first, 3], 0.001 * meta["diameters"][str(int(obj))]
        found.append(ObjectErrors(scores, true[:, 3] > 0, errors[..., 2:], 0.001 * errors[..., 0], errors[..., 1], diameter_m, meta["im_width"]))
    return found


@pytest.mark.parametrize(("arrays", "meta"), cases("bop_ar"))
def test_average_recall(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    recall = average_recall(groups(arrays, meta))
    assert_close(recall.vsd_recall, arrays["recall_vsd"], rtol=0, atol=1e-12)
    assert_close(recall.mssd_recall, arrays["recall_mssd"], rtol=0, atol=1e-12)
    assert_close(recall.mspd_recall, arrays["recall_mspd"], rtol=0, atol=1e-12)
    for name, value in {"vsd": recall.vsd, "mssd": recall.mssd, "mspd": recall.mspd}.items():
        assert_close(value, arrays[f"ar_{name}"], rtol=0, atol=1e-12)
    assert_close(recall.mean, arrays["ar"], rtol=0, atol=1e-12)
    assert recall.num_targets == int((arrays["gt_table"][:, 3] > 0).sum())


def test_thresholds_are_those_of_bop19() -> None:
    assert_close(np.array(bop_recall.ERROR_THRESHOLDS), np.linspace(0.05, 0.5, 10))
    assert_close(np.array(bop_recall.PIXEL_THRESHOLDS), np.linspace(5, 50, 10))
