"""Global alignment against what DUSt3R's optimiser recorded: its objective with gradients at a given state, its start and its end."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.support.closeness import PARITY, assert_close

from perception.geometry import se3
from perception.geometry.alignment import umeyama
from perception.geometry.focal import focal_of_point_map, median_focal_of_point_map
from perception.geometry.global_alignment import AlignedScene, KnownCameras, align, alignment_loss, pair_observations
from perception.geometry.global_alignment.cameras import camera_of_world_points, focal_bounds
from perception.geometry.global_alignment.parameters import SceneParameters, adaptors, pair_similarities, scene_of_parameters
from perception.geometry.global_alignment.scene import Scene
from perception.geometry.global_alignment.spanning_tree import first_scene
from perception.geometry.so3 import rotation_angle

pytestmark = pytest.mark.parity

LOSS = dict(rtol=1e-4, atol=1e-6)
GRADIENT = dict(rtol=1e-3, atol=1e-6)
"""The fixture's README."""


def is_case(path):
    config = json.loads(path.read_text())
    return isinstance(config, dict) and {"edges", "base_scale", "gt_focal"} <= config.keys()


CASES = sorted(path.parent for path in PARITY.rglob("config.json") if is_case(path))


def read(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return {key: torch.from_numpy(np.asarray(stored[key])) for key in stored}


@pytest.fixture(scope="module", params=CASES, ids=lambda folder: str(folder.relative_to(PARITY)))
def case(request):
    config = json.loads((request.param / "config.json").read_text())
    inputs, expected = read(request.param, "inputs"), read(request.param, "outputs")
    observations = pair_observations(config["edges"], inputs["pred_i"], inputs["conf_i"], inputs["pred_j"], inputs["conf_j"])
    return SimpleNamespace(config=config, inputs=inputs, expected=expected, observations=observations)


@pytest.fixture(scope="module")
def at_state(case):
    """The official state as our parameters, what they say, and the loss with its gradients."""
    stored = [case.inputs[f"state_{name}"].clone() for name in ("pw_poses", "pw_adaptors", "im_depthmaps", "im_poses", "im_focals")]
    parameters = SceneParameters(*stored[:4], stored[4][:, 0])
    trained = (parameters.pair_poses, parameters.log_depth, parameters.camera_poses, parameters.slow_log_focal)
    for value in trained:
        value.requires_grad_()
    principal = torch.tensor([case.config["w"], case.config["h"]]).expand(case.config["n"], 2) / 2
    scene = scene_of_parameters(parameters, principal)
    loss = alignment_loss(case.observations, scene)
    loss.backward()
    detached = Scene(*(getattr(scene, name).detach() for name in Scene.__dataclass_fields__))
    return SimpleNamespace(parameters=parameters, scene=detached, loss=loss.detach())


def test_the_objective_of_a_state_is_the_official_one(case, at_state):
    assert_close(at_state.loss, case.expected["eval_loss"], **LOSS)
    assert_close(at_state.scene.world_from_camera, case.expected["eval_im_poses_c2w"])
    assert_close(at_state.scene.focal_px[:, None], case.expected["eval_focals"])
    assert_close(pair_similarities(at_state.parameters).detach(), case.expected["eval_pw_poses_scaled"])
    assert_close(adaptors(at_state.parameters), case.expected["eval_adaptors"])
    points = at_state.scene.world_points(case.observations.pixels())
    assert_close(points.view_as(case.expected["eval_pts3d"]), case.expected["eval_pts3d"])


def test_its_gradients_are_the_official_ones(case, at_state):
    parameters = at_state.parameters
    assert_close(parameters.pair_poses.grad, case.expected["eval_grad_pw_poses"], **GRADIENT)
    assert_close(parameters.log_depth.grad, case.expected["eval_grad_im_depthmaps"], **GRADIENT)
    assert_close(parameters.camera_poses.grad, case.expected["eval_grad_im_poses"], **GRADIENT)
    assert_close(parameters.slow_log_focal.grad[:, None], case.expected["eval_grad_im_focals"], **GRADIENT)


def test_focal_lengths_of_single_pairs_are_the_official_ones(case):
    centre = torch.tensor([case.config["w"] / 2, case.config["h"] / 2])
    low, high = focal_bounds((case.config["h"], case.config["w"]))
    for mode, focal_of in (("weiszfeld", focal_of_point_map), ("median", median_focal_of_point_map)):
        assert_close(focal_of(case.inputs["pred_i"], centre).clamp(low, high), case.expected[f"edge_focal_{mode}"].float(), rtol=1e-5)


def errors_after_alignment(world_from_camera, truth):
    """Largest distance of a camera's centre and largest angle in degrees once centres lie on the true ones; units of the truth."""
    found, truth = world_from_camera.double(), truth.double()
    moved = umeyama(found[:, :3, 3], truth[:, :3, 3], with_scale=True)
    centres = se3.transform_points(moved, found[:, :3, 3])
    rotation = moved[:3, :3] / torch.linalg.det(moved[:3, :3]) ** (1 / 3)
    angle = torch.rad2deg(rotation_angle((rotation @ found[:, :3, :3]).mT @ truth[:, :3, :3]))
    return float((centres - truth[:, :3, 3]).norm(dim=1).max()), float(angle.max())


def test_the_start_is_as_exact_as_the_official_one(case):
    known = KnownCameras().with_principal_points(case.observations)
    scene = first_scene(case.observations, known, case.config["base_scale"])
    assert float(alignment_loss(case.observations, scene)) <= 1.25 * float(case.expected["mst_loss"]) + 1e-6
    distance, angle = errors_after_alignment(scene.world_from_camera, case.inputs["gt_c2w"])
    official = errors_after_alignment(case.expected["mst_im_poses_c2w"], case.inputs["gt_c2w"])
    assert distance <= 1.5 * official[0] + 1e-4
    assert angle <= 1.5 * official[1] + 1e-2
    assert_close(scene.focal_px[:, None].float(), case.expected["mst_focals"], rtol=1e-3)


def test_the_end_is_no_worse_than_the_start_and_better_than_the_official_end(case):
    scene = align(case.observations)
    assert scene.loss <= scene.start_loss
    assert scene.loss <= float(case.expected["mst_loss"])
    assert scene.loss <= 1.01 * float(case.expected["opt_loss"])
    distance, angle = errors_after_alignment(scene.world_from_camera, case.inputs["gt_c2w"])
    official = errors_after_alignment(case.expected["opt_im_poses_c2w"], case.inputs["gt_c2w"])
    assert distance <= official[0]
    assert angle <= official[1]
    assert (scene.focal_px - case.config["gt_focal"]).abs().max() <= (case.expected["opt_focals"] - case.config["gt_focal"]).abs().max()


def test_a_camera_is_found_by_pnp_at_least_as_well_as_officially(case):
    i, j = case.config["edges"][0]
    truth = torch.linalg.inv(case.inputs["gt_c2w"][i].double()) @ case.inputs["gt_c2w"][j].double()
    scale = float(case.inputs["pair_scale"][0])
    size = (case.config["h"], case.config["w"])
    centre = torch.tensor([case.config["w"] / 2, case.config["h"] / 2]).double()
    points, usable = case.inputs["pred_j"][0].view(-1, 3), case.inputs["conf_j"][0].flatten() > case.config["min_conf_thr"]

    def error(pose):
        own = pose.double()
        turned = float(rotation_angle(own[:3, :3].mT @ truth[:3, :3]))
        return turned + min(float((own[:3, 3] * factor - truth[:3, 3]).norm()) for factor in (scale, 1 / scale))

    known, _ = camera_of_world_points(points, usable, size, centre, case.config["gt_focal"])
    assert error(known) <= error(case.expected["pnp_edge0_knownfocal_c2w"]) + 1e-3
    _, focal = camera_of_world_points(points, usable, size, centre, None)
    assert abs(np.log(focal / case.config["gt_focal"])) <= abs(np.log(float(case.expected["pnp_edge0_focal_grid"]) / case.config["gt_focal"]))


def test_confidences_are_cleaned_as_officially(case):
    expected = case.expected
    scene = AlignedScene(
        expected["opt_im_poses_c2w"].double(),
        expected["opt_focals"][:, 0].double(),
        torch.tensor([case.config["w"], case.config["h"]]).expand(case.config["n"], 2).double() / 2,
        list(expected["opt_depth"]),
        case.observations.unflatten(case.observations.image_confidence()),
        torch.eye(4).expand(len(case.config["edges"]), 4, 4),
        0.0,
        0.0,
        0,
    )
    cleaned = torch.stack(scene.cleaned_confidence())
    different = (cleaned - expected["clean_im_conf"]).abs() > 1e-5
    # A point that projects between two pixels, or lies at the tolerance, may fall to either side by rounding.
    assert float(different.float().mean()) <= 2e-3
    assert bool((expected["clean_im_conf"] == 0).any())
