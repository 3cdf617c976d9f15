"""Metrics of reconstruction against the recorded outputs of Pi3's and CUT3R's evaluations and of evo. See the fixtures' READMEs."""

import json

import numpy as np
import pytest
from tests.support.closeness import PARITY

from perception.evaluation.metrics.depth import depth_scores
from perception.evaluation.metrics.point_maps import icp, normals_of_points, point_scores, reconstruction_scores
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
from perception.geometry import se3
from perception.geometry.alignment import similarity_scale, umeyama

pytestmark = pytest.mark.parity

CLOSED_FORM, ITERATIVE, OPEN3D = 1e-6, 1e-3, 2e-2
"""Relative, from the README of `metrics`."""

FOLDERS = sorted(path.parent for path in PARITY.rglob("config.json") if "icp_threshold" in json.loads(path.read_text()))
EVO = sorted(PARITY.rglob("evo_ate_rpe*.npz"))


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: str(folder.relative_to(PARITY)))
def recorded(request):
    with np.load(request.param / "inputs.npz") as inputs, np.load(request.param / "outputs.npz") as outputs:
        return dict(inputs), dict(outputs), json.loads((request.param / "config.json").read_text())


def named(arrays, ending):
    return [name.removesuffix(ending) for name in arrays if name.endswith(ending)]


def test_relative_poses_have_the_official_errors(recorded):
    inputs, outputs, _config = recorded
    for case in named(outputs, "_rot_deg"):
        errors = pair_errors(inputs[f"{case}_pred_w2c"], inputs[f"{case}_gt_w2c"])
        # The official directions come from arc cosines, which lose half of the digits close to 0.
        np.testing.assert_allclose(errors.rotation_deg, outputs[f"{case}_rot_deg"], rtol=CLOSED_FORM, atol=1e-6)
        np.testing.assert_allclose(errors.translation_deg, outputs[f"{case}_trans_deg"], rtol=CLOSED_FORM, atol=1e-5)


@pytest.mark.parametrize("order", ["second_from_first", "first_from_second"])
def test_relative_poses_have_the_official_scores_in_both_orders(recorded, order):
    inputs, outputs, _config = recorded
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
    inputs, outputs, config = recorded
    for case in named(outputs, "_ATE_rmse"):
        scores = trajectory_scores(inputs[f"{case}_pred_c2w"], inputs[f"{case}_gt_c2w"], step=config["delta"])
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


DEPTH_MODES = {
    "median": "median",
    "scale": "scale",
    "lstsq": "least_squares",
    "lad": "least_absolute",
    "lad2": "adam",
    "lad2_lr1e3": "adam_fast",
    "metric": "metric",
}


def number(text):
    return None if text == "None" else float(text)


def test_depth_has_the_official_scores_in_all_modes(recorded):
    inputs, outputs, _config = recorded
    cases = named(outputs, "_Abs_Rel")
    assert len(cases) >= len(DEPTH_MODES)
    for case in cases:
        mode, limit, clip = case.removeprefix("depth_").rsplit("_", 2)
        scores = depth_scores(
            inputs["depth_pred"],
            inputs["depth_gt"],
            DEPTH_MODES[mode],
            max_depth=number(limit.removeprefix("max")),
            clip_above=number(clip.removeprefix("post")),
        )
        rtol = CLOSED_FORM if mode in ("median", "lstsq", "metric") else ITERATIVE
        ours = dict(Abs_Rel=scores.abs_rel, Sq_Rel=scores.sq_rel, RMSE=scores.rmse, Log_RMSE=scores.log_rmse, valid_pixels=scores.num_pixels)
        ours |= {f"delta_<_1.25{power}": share for power, share in zip(("", "^2", "^3"), scores.within, strict=True)}
        for name, value in ours.items():
            np.testing.assert_allclose(value, outputs[f"{case}_{name}"], rtol=rtol, err_msg=f"{case} {name}")


def test_lines_fitted_to_depth_are_the_official_ones(recorded):
    inputs, outputs, _config = recorded
    for name in named(outputs, "_s_t"):
        scores = depth_scores(inputs["depth_pred"], inputs["depth_gt"], DEPTH_MODES[name], max_depth=80)
        np.testing.assert_allclose((scores.scale, scores.shift), outputs[f"{name}_s_t"], rtol=ITERATIVE)


POINT_SCORES = {
    "acc": "accuracy",
    "acc_med": "accuracy_median",
    "comp": "completion",
    "comp_med": "completion_median",
    "nc1": "normal_accuracy",
    "nc1_med": "normal_accuracy_median",
    "nc2": "normal_completion",
    "nc2_med": "normal_completion_median",
}


def aligned_points(inputs):
    return se3.transform_points(umeyama(inputs["pts_pred"], inputs["pts_gt"], with_scale=True), inputs["pts_pred"])


def test_similarity_of_points_is_the_official_one(recorded):
    inputs, outputs, _config = recorded
    similarity = umeyama(inputs["pts_pred"], inputs["pts_gt"], with_scale=True)
    np.testing.assert_allclose(similarity_scale(similarity), outputs["umeyama_c"], rtol=CLOSED_FORM)
    np.testing.assert_allclose(similarity[:3, :3] / similarity_scale(similarity), outputs["umeyama_R"], rtol=CLOSED_FORM, atol=1e-9)
    np.testing.assert_allclose(similarity[:3, 3:], outputs["umeyama_t"], rtol=CLOSED_FORM, atol=1e-9)
    np.testing.assert_allclose(aligned_points(inputs), outputs["umeyama_aligned"], rtol=CLOSED_FORM, atol=1e-9)


def test_scores_of_points_with_given_normals_are_the_official_ones(recorded):
    inputs, outputs, _config = recorded
    scores = point_scores(aligned_points(inputs), inputs["pts_gt"], inputs["normals_pred"], inputs["normals_gt"])
    for name, ours in POINT_SCORES.items():
        np.testing.assert_allclose(getattr(scores, ours), outputs[f"given_normals_{name}"], rtol=CLOSED_FORM, err_msg=name)


def test_icp_and_normals_are_those_of_open3d(recorded):
    inputs, outputs, config = recorded
    aligned = aligned_points(inputs)
    result = icp(aligned, inputs["pts_gt"], config["icp_threshold"])
    np.testing.assert_allclose(result.target_from_source, outputs["icp_T"], atol=1e-6)
    np.testing.assert_allclose((result.fitness, result.rmse), (outputs["icp_fitness"], outputs["icp_inlier_rmse"]), rtol=CLOSED_FORM)
    moved = se3.transform_points(result.target_from_source, aligned)
    for points, expected in ((moved, outputs["o3d_normals_pred"]), (inputs["pts_gt"], outputs["o3d_normals_gt"])):
        np.testing.assert_allclose(np.abs((normals_of_points(points) * expected).sum(-1)), 1.0, atol=1e-4)


def test_scores_of_reconstruction_are_the_official_ones(recorded):
    inputs, outputs, config = recorded
    scores = reconstruction_scores(inputs["pts_pred"], inputs["pts_gt"], config["icp_threshold"])
    for name, ours in POINT_SCORES.items():
        np.testing.assert_allclose(getattr(scores, ours), outputs[f"full_{name}"], rtol=OPEN3D, err_msg=name)
