"""Metrics of reconstruction against the recorded outputs of Pi3's and CUT3R's evaluations and of evo. See the fixtures' READMEs."""

import json

import numpy as np
import pytest
from tests.support.closeness import PARITY

from perception.evaluation.metrics.relative_pose import area_under_curve, pair_errors, share_below
from perception.evaluation.metrics.trajectory import (
    absolute_pose_errors,
    aligned_trajectory,
    error_statistics,
    pairs_by_frames,
    pairs_by_path,
    relative_pose_errors,
    trajectory_scores,
)

pytestmark = pytest.mark.parity

CLOSED_FORM, ITERATIVE, OPEN3D = 1e-6, 1e-3, 2e-2
"""Relative, from the README of `metrics`."""

FOLDERS = sorted(path.parent for path in PARITY.rglob("outputs.npz") if path.parent.name.startswith("metrics"))
EVO = sorted(PARITY.rglob("evo_ate_rpe*.npz"))


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: str(folder.relative_to(PARITY)))
def recorded(request):
    with np.load(request.param / "inputs.npz") as inputs, np.load(request.param / "outputs.npz") as outputs:
        return dict(inputs), dict(outputs)


def named(arrays, ending):
    return [name.removesuffix(ending) for name in arrays if name.endswith(ending)]


def test_relative_poses_have_the_official_errors(recorded):
    inputs, outputs = recorded
    for case in named(outputs, "_rot_deg"):
        errors = pair_errors(inputs[f"{case}_pred_w2c"], inputs[f"{case}_gt_w2c"])
        # The official directions come from arc cosines, which lose half of the digits close to 0.
        np.testing.assert_allclose(errors.rotation_deg, outputs[f"{case}_rot_deg"], rtol=CLOSED_FORM, atol=1e-6)
        np.testing.assert_allclose(errors.translation_deg, outputs[f"{case}_trans_deg"], rtol=CLOSED_FORM, atol=1e-5)


@pytest.mark.parametrize("order", ["second_from_first", "first_from_second"])
def test_relative_poses_have_the_official_scores_in_both_orders(recorded, order):
    inputs, outputs = recorded
    for case in named(outputs, "_rot_deg"):
        errors = pair_errors(inputs[f"{case}_pred_w2c"], inputs[f"{case}_gt_w2c"], order)
        prefix = case if order == "second_from_first" else f"{case}_vggtorder"
        thresholds = [int(name.removeprefix(f"{prefix}_RRA")) for name in outputs if name.startswith(f"{prefix}_RRA")]
        assert thresholds
        for threshold in thresholds:
            scores = {
                "RRA": share_below(errors.rotation_deg, threshold),
                "RTA": share_below(errors.translation_deg, threshold),
                "AUC_np": area_under_curve(errors, threshold),
                "AUC_torch": area_under_curve(errors, threshold, "torch"),
            }
            for score, value in scores.items():
                name, *kind = score.split("_")
                expected = outputs.get("_".join([f"{prefix}_{name}{threshold}", *kind]))
                if expected is not None:
                    np.testing.assert_allclose(100 * value, expected, rtol=CLOSED_FORM, err_msg=f"{prefix} {score} {threshold}")


def test_trajectories_have_the_official_scores(recorded):
    inputs, outputs = recorded
    for case in named(outputs, "_ATE_rmse"):
        scores = trajectory_scores(inputs[f"{case}_pred_c2w"], inputs[f"{case}_gt_c2w"])
        np.testing.assert_allclose(scores.ate, outputs[f"{case}_ATE_rmse"], rtol=CLOSED_FORM)
        np.testing.assert_allclose(scores.rpe_translation, outputs[f"{case}_RPE_trans_rmse"], rtol=CLOSED_FORM)
        np.testing.assert_allclose(scores.rpe_rotation_deg, outputs[f"{case}_RPE_rot_deg_rmse"], rtol=CLOSED_FORM)


ALIGNMENTS = {"none": "none", "se3": "rigid", "sim3": "similarity", "scale_only": "scale", "origin": "first_pose"}


def evo_cases():
    """Of all files the cases as (arrays, settings)."""
    cases = []
    for path in EVO:
        with np.load(path) as arrays:
            for case, settings in json.loads(str(arrays["meta_json"])).items():
                values = {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.startswith(f"{case}/")}
                cases.append(pytest.param(values, settings, id=f"{path.stem}-{case}"))
    return cases


def relation(errors, name):
    return {
        "translation_part": errors.translation,
        "rotation_angle_deg": errors.rotation_deg,
        "rotation_angle_rad": np.radians(errors.rotation_deg),
        "rotation_part": errors.rotation_chordal,
        "full_transformation": errors.transformation,
        "point_distance": errors.distance,
    }[name]


def pairs_of(delta, kind, poses):
    """`delta` as the fixture writes it: 3frames or 1.0meters; kind: seq or all."""
    if delta.endswith("frames"):
        return pairs_by_frames(len(poses), int(delta.removesuffix("frames")), overlapping=kind == "all")
    assert kind == "seq"
    return pairs_by_path(poses, float(delta.removesuffix("meters")))


@pytest.mark.parametrize(("arrays", "meta"), evo_cases())
def test_errors_and_statistics_are_those_of_evo(arrays, meta):
    true, aligned = arrays["poses_gt"], aligned_trajectory(arrays["poses_est"], arrays["poses_gt"], ALIGNMENTS[meta["align"]])
    compared = 0
    for key in [key for key in arrays if key.startswith(("ape_", "rpe_")) and not key.endswith("_stats")]:
        if key.startswith("ape_"):
            errors = relation(absolute_pose_errors(aligned, true), key.removeprefix("ape_"))
        else:
            name, delta, kind = key.removeprefix("rpe_").rsplit("_", 2)
            errors = relation(relative_pose_errors(aligned, true, pairs_of(delta.removeprefix("d"), kind, aligned)), name)
        closeness = dict(rtol=1e-8, atol=1e-5 if "angle" in key else 1e-8)
        np.testing.assert_allclose(errors, arrays[key], **closeness, err_msg=key)
        statistics = dict(zip(("rmse", "mean", "median", "std", "min", "max", "sse"), error_statistics(errors), strict=True))
        np.testing.assert_allclose([statistics[name] for name in meta["stats"]], arrays[f"{key}_stats"], **closeness, err_msg=key)
        compared += 1
    assert compared >= 6
