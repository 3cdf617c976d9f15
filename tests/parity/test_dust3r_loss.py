"""DUSt3R's losses against what the official ones recorded, gradients included."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception_training.losses.dust3r import PairTruth, confidence_loss, point_error

pytestmark = pytest.mark.parity

LOSS = dict(rtol=1e-4, atol=0)
GRADIENT = dict(rtol=1e-3, atol=1e-6)
"""The fixture's README."""
TESTED = {"Regr3D": {}, "Regr3D_ScaleInv": {"free_scale": True}, "Regr3D_ShiftInv": {"free_shift": True}}
TESTED["Regr3D_ScaleShiftInv"] = {"free_scale": True, "free_shift": True}


def is_case(path):
    inputs = path.parent / "inputs.npz"
    if not inputs.is_file():
        return False
    with np.load(inputs) as stored:
        return {"gt1_pose", "pred1_conf"} <= set(stored)


CASES = sorted(path.parent for path in PARITY.rglob("config.json") if is_case(path))


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(np.asarray(stored[key])) for key in stored}


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def case(request):
    inputs = read(request.param, "inputs")
    truth = PairTruth(*(inputs[name] for name in ("gt1_pts3d", "gt2_pts3d", "gt1_mask", "gt2_mask", "gt1_pose")))
    config = json.loads((request.param / "config.json").read_text())
    return config, inputs, truth, read(request.param, "outputs")


def test_the_confidence_loss_and_its_gradients_are_the_official_ones(case):
    config, inputs, truth, expected = case
    predicted = [inputs[name].clone().requires_grad_() for name in ("pred1_pts3d", "pred1_conf", "pred2_pts3d", "pred2_conf")]
    result = confidence_loss(*predicted, truth, alpha=config["alpha"])
    result.loss.backward()
    names = ("conf_loss", "conf_conf_loss_1", "conf_conf_loss2", "conf_Regr3D_pts3d_1", "conf_Regr3D_pts3d_2")
    for name, value in zip(names, result, strict=True):
        assert_close(value.detach().double(), expected[name].double(), **LOSS)
    for name, value in zip(("grad_p1", "grad_c1", "grad_p2", "grad_c2"), predicted, strict=True):
        assert_close(value.grad, expected[name], **GRADIENT)


@pytest.mark.parametrize("normalisation", ["mean", "median"])
def test_both_normalisations_give_the_official_loss(case, normalisation):
    config, inputs, truth, expected = case
    predicted = [inputs[name] for name in ("pred1_pts3d", "pred1_conf", "pred2_pts3d", "pred2_conf")]
    result = confidence_loss(*predicted, truth, alpha=config["alpha"], normalisation=normalisation)
    assert_close(result.loss, expected[{"mean": "conf_loss_norm_avg_dis", "median": "conf_loss_norm_median_dis"}[normalisation]], **LOSS)


@pytest.mark.parametrize("name", TESTED)
@pytest.mark.parametrize("truth_scale", [True, False])
def test_errors_of_the_test_are_the_official_ones(case, name, truth_scale):
    _, inputs, truth, expected = case
    error = point_error(inputs["pred1_pts3d"], inputs["pred2_pts3d"], truth, truth_scale=truth_scale, **TESTED[name])
    assert_close(error, expected[f"{name}_gtscale{int(truth_scale)}"], **LOSS)
