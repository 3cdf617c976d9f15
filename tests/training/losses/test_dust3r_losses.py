"""DUSt3R's losses: what must not change them, and what they are where things are missing."""

import pytest
import torch
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.geometry import se3
from perception_training.losses.dust3r import PairTruth, confidence_loss, point_error

SIZE = (2, 6, 8)
ONES = torch.ones(SIZE).double()


def truth_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(2, *SIZE, 3, generator=generator).double() + torch.tensor([0.0, 0.0, 4.0]).double()
    valid = torch.rand(2, *SIZE, generator=generator) > 0.3
    pose = se3.exp(0.3 * torch.randn(2, 6, generator=generator).double())
    return PairTruth(points[0], points[1], valid[0], valid[1], pose)


def seen_by_camera1(truth):
    camera1_from_world = se3.inverse(truth.world_from_camera1)[:, None]
    return [se3.transform_points(camera1_from_world, points) for points in (truth.points1, truth.points2)]


def confidences():
    return 1 + torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(5)).double()


def test_a_perfect_prediction_of_any_scale_has_no_distance():
    truth = truth_of()
    points1, points2 = (3.7 * points for points in seen_by_camera1(truth))
    result = confidence_loss(points1, confidences()[0], points2, confidences()[1], truth)
    assert float(result.distance1 + result.distance2) < 1e-9
    assert float(result.loss) < 0  # only the reward of confidence is left


def test_one_scale_for_both_images_is_free_and_one_for_each_is_not():
    truth = truth_of()
    points1, points2 = seen_by_camera1(truth)
    both, one = (confidence_loss(points1 * a, confidences()[0], points2 * b, confidences()[1], truth) for a, b in ((2, 2), (2, 1)))
    assert float(both.distance1) < 1e-9
    assert float(one.distance1) > 0.05


def test_what_lies_at_invalid_pixels_plays_no_part():
    truth = truth_of()
    points = [value + 0.1 for value in seen_by_camera1(truth)]
    spoiled = PairTruth(
        torch.where(truth.valid1[..., None], truth.points1, torch.nan), torch.where(truth.valid2[..., None], truth.points2, 1e9), *truth[2:]
    )
    for function in (
        lambda t: confidence_loss(points[0], confidences()[0], points[1], confidences()[1], t).loss,
        lambda t: point_error(*points, t, free_scale=True, free_shift=True),
    ):
        assert_close(function(spoiled), function(truth))


def test_without_a_valid_pixel_the_loss_is_zero_and_its_gradients_are_finite():
    truth = truth_of()
    nothing = truth._replace(valid1=torch.zeros_like(truth.valid1), valid2=torch.zeros_like(truth.valid2))
    points = [value.clone().requires_grad_() for value in seen_by_camera1(truth)]
    result = confidence_loss(points[0], confidences()[0], points[1], confidences()[1], nothing)
    result.loss.backward()
    assert float(result.loss) == 0
    assert all(bool(torch.isfinite(value.grad).all()) for value in points)
    assert float(point_error(*seen_by_camera1(truth), nothing, free_scale=True, free_shift=True)) == 0


def test_confidence_pays_where_distances_are_below_alpha():
    truth = truth_of()
    noise = torch.randn(2, *SIZE, 3, generator=torch.Generator().manual_seed(3)).double()
    for size, better in ((1e-3, 5.0), (2.0, 1.0)):
        points = [value + size * part for value, part in zip(seen_by_camera1(truth), noise, strict=True)]
        losses = {level: float(confidence_loss(points[0], level * ONES, points[1], level * ONES, truth).loss) for level in (1.0, 5.0)}
        assert min(losses, key=losses.get) == better


def test_gradients_are_those_of_the_function():
    truth = truth_of()
    points = [(value + 0.2).requires_grad_() for value in seen_by_camera1(truth)]
    weights = [value.clone().requires_grad_() for value in confidences()]
    assert torch.autograd.gradcheck(lambda a, b, c, d: confidence_loss(a, b, c, d, truth).loss, (points[0], weights[0], points[1], weights[1]))


def test_a_shift_along_the_depth_is_free_only_where_it_is_said_to_be():
    truth = truth_of()
    moved = [value + torch.tensor([0.0, 0.0, 5.0]).double() for value in seen_by_camera1(truth)]
    assert float(point_error(*moved, truth, free_scale=True, free_shift=True)) < 1e-9
    assert float(point_error(*moved, truth, free_scale=True)) > 1


@pytest.mark.parametrize("wrong", ["points", "confidence", "alpha", "pose"])
def test_shapes_that_do_not_fit_are_one_clear_sentence(wrong):
    truth = truth_of()
    points1, points2 = seen_by_camera1(truth)
    arguments = [points1[:, :-1] if wrong == "points" else points1, confidences()[0], points2, confidences()[1]]
    if wrong == "confidence":
        arguments[3] = arguments[3][:1]
    if wrong == "pose":
        truth = truth._replace(world_from_camera1=truth.world_from_camera1[0])
    with pytest.raises(InputError, match="DUSt3R's loss"):
        confidence_loss(*arguments, truth, alpha=0.0 if wrong == "alpha" else 0.2)
