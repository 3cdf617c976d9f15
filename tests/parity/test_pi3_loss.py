"""Pi3's losses and their gradients against the official code's recorded outputs. See shared/parity/models/README.md."""

import json

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY

from perception_training.losses.pi3 import pi3_loss
from perception_training.losses.scene_geometry import ScenePrediction, scene_truth

pytestmark = pytest.mark.parity

LOSS = dict(rtol=1e-4, atol=1e-8)
GRADIENT = dict(rtol=1e-3, atol=1e-6)
"""The fixture's README."""

CASES = sorted(path.parent for path in PARITY.rglob("config.json") if "high_quality" in json.loads(path.read_text()))


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


class Recording:
    """The three calls that were recorded: first stages, with points in the world, and the stage of the confidence."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.inputs, self.expected = read(folder, "inputs"), read(folder, "outputs")
        self.truth = scene_truth(self.inputs["gt_pts3d_world"], self.inputs["gt_valid_mask"], self.inputs["gt_camera_pose_c2w"])
        clean = {*config["high_quality"], *config["middle_quality"]}
        self.clean = torch.tensor([name in clean for name in config["dataset_names"]])
        self.points = self.inputs["pred_local_points"].requires_grad_()
        self.poses = self.inputs["pred_camera_poses"].requires_grad_()
        self.confidence = self.inputs["pred_conf"].requires_grad_()

    def loss(self, **more):
        return pi3_loss(ScenePrediction(self.points, self.poses, **more), self.truth, self.clean, self.inputs["sky_mask"])


@pytest.fixture(params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def recording(request):
    return Recording(request.param)


def test_true_points_and_poses_are_brought_to_the_official_unit(recording):
    expected = recording.expected
    torch.testing.assert_close(recording.truth.local_points, expected["gt_norm_local_points"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(recording.truth.world_from_camera, expected["gt_norm_camera_poses"], rtol=1e-4, atol=1e-6)


def test_terms_their_sum_and_its_gradients_are_the_official_ones(recording):
    expected, loss = recording.expected, recording.loss()
    torch.testing.assert_close(loss.scale, expected["scale_after_pred_normalisation"], rtol=1e-5, atol=0)
    names = {"local_pts_loss": "points", "normal_loss": "normals", "trans_loss": "translation", "rot_loss": "rotation"}
    for official, ours in names.items():
        torch.testing.assert_close(loss.terms[ours], expected[official], **LOSS)
    torch.testing.assert_close(loss.total, expected["loss"], **LOSS)
    points_gradient, poses_gradient = torch.autograd.grad(loss.total, (recording.points, recording.poses))
    torch.testing.assert_close(points_gradient, expected["grad_local_points"], **GRADIENT)
    torch.testing.assert_close(poses_gradient, expected["grad_camera_poses"], **GRADIENT)


def test_points_in_the_world_add_the_official_term(recording):
    loss = recording.loss(world_points=recording.inputs["pred_global_points"])
    torch.testing.assert_close(loss.terms["world_points"], recording.expected["with_global_pts_loss"], **LOSS)
    torch.testing.assert_close(loss.total, recording.expected["with_global_loss"], **LOSS)


def test_stage_of_the_confidence_has_the_official_term_and_gradient(recording):
    loss = recording.loss(confidence=recording.confidence[..., 0])
    torch.testing.assert_close(loss.terms["confidence"], recording.expected["conf_stage_local_conf_loss"], **LOSS)
    torch.testing.assert_close(loss.total, recording.expected["conf_stage_loss"], **LOSS)
    (gradient,) = torch.autograd.grad(loss.total, recording.confidence)
    torch.testing.assert_close(gradient, recording.expected["conf_stage_grad_conf"], **GRADIENT)
