"""What Pi3's losses do not depend on, exact values, gradients, little or nothing to go by."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.point_maps import points_in_world
from perception.models.pi3 import Pi3, pi3_tiny
from perception_training.losses.pi3 import GOOD_RESIDUAL, WEIGHTS, confidence_term, pi3_loss, relative_pose_terms
from perception_training.losses.scene_geometry import ScenePrediction, scaled_poses, scene_truth
from perception_training.losses.surface_normals import surface_normal_loss

BATCH, FRAMES, HEIGHT, WIDTH = 2, 3, 5, 6
CLEAN = torch.ones(BATCH, dtype=torch.bool)


def scene(seed=0, frames=FRAMES):
    """Local points in front of each camera, poses, and a mask that leaves out a quarter."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(BATCH, frames, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    local = draw(HEIGHT, WIDTH, 3) * torch.tensor((1.0, 1.0, 0.3), dtype=torch.float64) + torch.tensor((0.0, 0.0, 3.0), dtype=torch.float64)
    return local, se3.exp(0.5 * draw(6)), draw(HEIGHT, WIDTH) < 0.7


def truth_of(local, poses, valid):
    return scene_truth(points_in_world(local, poses), valid, poses)


def guess(seed=1, frames=FRAMES):
    local, poses, _ = scene(seed, frames)
    return ScenePrediction(local, poses)


@settings(max_examples=4, deadline=None)
@given(st.floats(0.01, 100.0))
def test_scale_of_the_prediction_does_not_matter(scale):
    truth, prediction = truth_of(*scene()), guess()
    scales = torch.full((BATCH,), scale, dtype=torch.float64)
    scaled = ScenePrediction(scale * prediction.local_points, scaled_poses(prediction.world_from_camera, scales))
    torch.testing.assert_close(pi3_loss(scaled, truth, CLEAN).total, pi3_loss(prediction, truth, CLEAN).total)


def test_world_and_unit_of_the_truth_do_not_matter():
    local, poses, valid = scene()
    motion = se3.exp(torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    other_poses = motion @ scaled_poses(poses, 7 * torch.ones(BATCH))
    truth, other = truth_of(local, poses, valid), truth_of(7 * local, other_poses, valid)
    torch.testing.assert_close(other.local_points, truth.local_points)
    torch.testing.assert_close(other.world_points, truth.world_points)
    torch.testing.assert_close(other.world_from_camera, truth.world_from_camera)


def test_world_of_the_prediction_does_not_matter():
    truth, prediction = truth_of(*scene()), guess()
    motion = se3.exp(torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    moved = prediction._replace(world_from_camera=motion @ prediction.world_from_camera)
    torch.testing.assert_close(pi3_loss(moved, truth, CLEAN).total, pi3_loss(prediction, truth, CLEAN).total)


def test_the_truth_itself_has_no_residual_in_any_scale():
    local, poses, valid = scene()
    truth = truth_of(local, poses, valid)
    half = 0.5 * torch.ones(BATCH)
    prediction = ScenePrediction(0.5 * local, scaled_poses(poses, half), world_points=0.5 * points_in_world(local, se3.inverse(poses[:, :1]) @ poses))
    loss = pi3_loss(prediction, truth, CLEAN)
    for name in ("points", "world_points", "translation"):
        assert float(loss.terms[name]) == pytest.approx(0, abs=1e-12)
    assert float(loss.terms["rotation"]) == pytest.approx(math.acos(1 - 1e-6))


def test_total_is_the_weighted_sum_and_gradients_are_right():
    truth, prediction = truth_of(*scene()), guess()
    loss = pi3_loss(prediction, truth, CLEAN)
    assert float(loss.total) == pytest.approx(sum(WEIGHTS[name] * float(term) for name, term in loss.terms.items()))

    def smooth_terms(points, poses):
        terms = pi3_loss(ScenePrediction(points, poses), truth, CLEAN).terms
        return terms["normals"], *relative_pose_terms(poses, truth.world_from_camera)

    leaves = prediction.local_points.requires_grad_(), prediction.world_from_camera.requires_grad_()
    assert torch.autograd.gradcheck(smooth_terms, leaves, fast_mode=True)


def test_gradient_of_the_points_is_that_at_a_scale_held_fixed():
    """The scale is detached: the gradient is that of the residuals alone, through the prediction's own unit."""
    truth, prediction = truth_of(*scene()), guess()
    points = prediction.local_points.requires_grad_()
    loss = pi3_loss(ScenePrediction(points, prediction.world_from_camera), truth, CLEAN)
    (gradient,) = torch.autograd.grad(loss.terms["points"], points)
    assert float((gradient * points.detach()).sum()) == pytest.approx(0, abs=1e-12), "the loss is free of scale, so nothing pulls along it"
    assert float(gradient.abs().sum()) > 0
    assert float(gradient[~truth.valid].abs().sum()) == 0


def test_plane_that_is_turned_costs_its_angle():
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    flat = torch.stack([column / 10, row / 10, torch.full_like(row, 5.0)], dim=-1)
    angle = math.radians(20)
    turned = torch.stack([flat[..., 0] * math.cos(angle), flat[..., 1], 5 + flat[..., 0] * math.sin(angle)], dim=-1)
    valid = torch.ones(4, 6, dtype=torch.bool)
    expected = 4 * (angle - math.radians(1.5)) / (4 * 6)
    assert float(surface_normal_loss(turned, flat, valid)) == pytest.approx(expected, rel=1e-4)
    valid[1, 1] = False  # the corner of four cells: of each, three of the four corners have it as a neighbour or are it
    assert float(surface_normal_loss(turned, flat, valid)) == pytest.approx(expected * (15 * 4 - 4 * 3) / (15 * 4), rel=1e-4)


def test_surfaces_that_are_not_clean_give_no_normals():
    truth, prediction = truth_of(*scene()), guess()
    assert float(pi3_loss(prediction, truth, ~CLEAN).terms["normals"]) == 0
    one = pi3_loss(prediction, truth, torch.tensor([True, False])).terms["normals"]
    other = pi3_loss(prediction, truth, torch.tensor([False, True])).terms["normals"]
    assert float(pi3_loss(prediction, truth, CLEAN).terms["normals"]) == pytest.approx(float(one + other) / 2)


def test_confidence_is_asked_for_good_points_and_denied_in_the_sky():
    local, poses, valid = scene()
    truth = truth_of(local, poses, valid)
    off = torch.zeros_like(valid)
    off[0, 0] = True
    wrong = torch.where(off[..., None], 1.5 * local, local)
    logits = torch.zeros(valid.shape, dtype=torch.float64, requires_grad=True)
    loss = pi3_loss(ScenePrediction(wrong, poses, logits), truth, CLEAN, sky=~valid)
    assert float(loss.terms["confidence"].detach()) == pytest.approx(2 * math.log(2))
    (gradient,) = torch.autograd.grad(loss.total, logits)
    assert (gradient[off] > 0).all(), "wrong points"
    assert (gradient[~valid] > 0).all(), "sky"
    assert (gradient[valid & ~off] < 0).all(), "good points"
    assert 0 < GOOD_RESIDUAL < 0.1
    assert float(confidence_term(logits, off, off & False, None).detach()) == 0


def finite_gradients(prediction, truth, **more):
    leaves = [value.requires_grad_() for value in prediction if value is not None]
    loss = pi3_loss(prediction, truth, CLEAN, **more)
    assert all(torch.isfinite(term) for term in loss.terms.values())
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss.total, leaves))
    return loss


def test_clip_without_valid_points_adds_poses_only():
    local, poses, valid = scene()
    valid[:] = False
    prediction = guess()._replace(confidence=torch.zeros(valid.shape, dtype=torch.float64))
    loss = finite_gradients(prediction, truth_of(local, poses, valid), sky=valid)
    assert float(loss.terms["points"]) == float(loss.terms["normals"]) == float(loss.terms["confidence"]) == 0
    assert torch.equal(loss.scale, torch.ones(BATCH, dtype=torch.float64))


def test_one_frame_has_no_pairs():
    loss = finite_gradients(guess(frames=1), truth_of(*scene(frames=1)))
    assert float(loss.terms["translation"]) == float(loss.terms["rotation"]) == 0


def test_points_that_are_no_numbers_count_as_not_valid():
    local, poses, valid = scene()
    expected = pi3_loss(guess(), truth_of(local, poses, valid), CLEAN).terms["points"]
    local[~valid] = torch.nan
    loss = finite_gradients(guess(), truth_of(local, poses, torch.ones_like(valid)))
    torch.testing.assert_close(loss.terms["points"], expected)


def test_points_that_are_all_zero_have_finite_gradients():
    prediction = guess()
    finite_gradients(prediction._replace(local_points=torch.zeros_like(prediction.local_points)), truth_of(*scene()))


def test_half_precision_is_computed_in_float32():
    local, poses, valid = scene()
    truth = scene_truth(points_in_world(local, poses).float(), valid, poses.float())
    prediction = ScenePrediction(*(value.bfloat16() for value in guess()[:2]))
    plain = pi3_loss(ScenePrediction(*(value.float() for value in prediction[:2])), truth, CLEAN)
    with torch.autocast("cpu", torch.bfloat16):
        loss = pi3_loss(prediction, truth, CLEAN)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, plain.total)


def test_shapes_that_do_not_fit_are_refused():
    local, poses, valid = scene()
    truth = truth_of(local, poses, valid)
    with pytest.raises(InputError, match="scene truth"):
        scene_truth(local, valid[:, :2], poses)
    with pytest.raises(InputError, match="local_points"):
        pi3_loss(guess(frames=2), truth, CLEAN)
    with pytest.raises(InputError, match="one for each clip"):
        pi3_loss(guess(), truth, CLEAN[:1])
    with pytest.raises(InputError, match="sky"):
        pi3_loss(guess(), truth, CLEAN, sky=valid[:1])


def test_the_network_learns_a_clip_by_heart():
    torch.manual_seed(0)
    network, height, width = Pi3(pi3_tiny()).train(), 28, 28
    row, column = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    depth = 2 + 0.3 * torch.sin(4 * row) + 0.4 * torch.cos(5 * column)
    points = torch.stack([column * depth, row * depth, depth], dim=-1)
    local, poses = torch.stack([points, 1.1 * points])[None], se3.exp(torch.tensor([[[0.0] * 6, [0.3, 0.1, 0, 0.1, 0.3, 0]]]))
    truth = truth_of(local, poses, torch.ones(1, 2, height, width, dtype=torch.bool))
    images, optimiser, totals = torch.rand(1, 2, 3, height, width), torch.optim.Adam(network.parameters(), lr=4e-3), []
    for _ in range(40):
        estimate = network(images)
        loss = pi3_loss(ScenePrediction(estimate.local_points, estimate.world_from_camera), truth, CLEAN[:1])
        optimiser.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        totals.append(float(loss.total.detach()))
    assert totals[-1] < totals[0] / 10, totals
