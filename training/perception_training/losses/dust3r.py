"""DUSt3R's losses (Wang et al., CVPR 2024): point maps of pairs of images, free of scale, weighed by a learned confidence.

Definitions follow naver/dust3r at 4c24a6e (`losses.py`, `utils/geometry.py`): both point maps are judged in the axes of the first camera, prediction
and truth each divided by the mean distance of all valid points of both images from that camera.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perception.core.errors import InputError
from perception.geometry import se3

Normalisation = Literal["mean", "median"]
Points = Float[Tensor, "batch height width 3"]

_SMALLEST_SCALE = 1e-8
_SCALE_RANGE = (1e-3, 1e3)


class PairTruth(NamedTuple):
    """points1, points2: of both images, in the world · valid1, valid2: where they are known · world_from_camera1 (batch, 4, 4), rigid. The sizes
    of the two images may differ."""

    points1: Points
    points2: Points
    valid1: Bool[Tensor, "batch height width"]
    valid2: Bool[Tensor, "batch height width"]
    world_from_camera1: Float[Tensor, "batch 4 4"]


class PairLoss(NamedTuple):
    """loss = confidence_loss1 + confidence_loss2; the others are parts to watch: distance1, distance2 are the mean distances of both images."""

    loss: Float[Tensor, ""]
    confidence_loss1: Float[Tensor, ""]
    confidence_loss2: Float[Tensor, ""]
    distance1: Float[Tensor, ""]
    distance2: Float[Tensor, ""]


def confidence_loss(
    points1: Points,
    confidence1: Float[Tensor, "batch height width"],
    points2: Points,
    confidence2: Float[Tensor, "batch height width"],
    truth: PairTruth,
    *,
    alpha: float = 0.2,
    normalisation: Normalisation = "mean",
) -> PairLoss:
    """Mean of confidence * distance - alpha * log(confidence) over the valid pixels of each image, summed over both.

    points1, points2 as predicted, in the first camera's axes; confidence at least 1. normalisation: what divides prediction and truth, mean or median
    of the distances from the first camera (the median without gradient). An image without valid pixels in the whole batch adds 0. Computed in
    float32 at least, also under autocast. Raises InputError for shapes that do not fit or an alpha that is not positive.
    """
    _check(points1, points2, truth)
    if not alpha > 0 or confidence1.shape != truth.valid1.shape or confidence2.shape != truth.valid2.shape:
        raise InputError(
            f"DUSt3R's loss: alpha = {alpha}, confidences {tuple(confidence1.shape)}, {tuple(confidence2.shape)}; alpha must be positive"
        )
    with torch.autocast(points1.device.type, enabled=False):
        wanted, found = _in_camera1(truth), (_exact(points1), _exact(points2))
        distances = _distances(normalised(*found, truth, normalisation), normalised(*wanted, truth, normalisation), truth)
        terms = []
        for confidence, valid, distance in zip((confidence1, confidence2), (truth.valid1, truth.valid2), distances, strict=True):
            weight = _exact(confidence)[valid]
            terms.append(_mean(weight * distance - alpha * weight.log()))
    return PairLoss(terms[0] + terms[1], *terms, *(_mean(distance).detach() for distance in distances))


def point_error(
    points1: Points,
    points2: Points,
    truth: PairTruth,
    *,
    normalisation: Normalisation = "mean",
    free_scale: bool = False,
    free_shift: bool = False,
    truth_scale: bool = True,
) -> Float[Tensor, ""]:
    """Mean distance of the valid points of each image from the truth, summed over both; DUSt3R tests with free_scale and free_shift.

    The prediction is divided as in `confidence_loss`; the truth only without `truth_scale`, so that errors are in its unit. free_shift: the joint
    median depth is taken off both. free_scale: the prediction is brought to the truth's size, or both to size 1 without `truth_scale`, where the size
    is the median distance from the median point (that of the prediction between 0.001 and 1000).
    """
    _check(points1, points2, truth)
    with torch.autocast(points1.device.type, enabled=False):
        found = normalised(_exact(points1), _exact(points2), truth, normalisation)
        wanted = _in_camera1(truth)
        if not truth_scale:
            wanted = normalised(*wanted, truth, normalisation)
        if free_shift:
            found, wanted = (_shifted(*points, truth) for points in (found, wanted))
        if free_scale:
            size = _size(*found, truth).clamp(*_SCALE_RANGE)
            wanted_size = _size(*wanted, truth)
            factor = wanted_size / size if truth_scale else 1 / size
            found = (found[0] * factor, found[1] * factor)
            if not truth_scale:
                wanted = (wanted[0] / wanted_size, wanted[1] / wanted_size)
        return sum((_mean(distance) for distance in _distances(found, wanted, truth)), points1.new_zeros(()))


def normalised(points1: Points, points2: Points, truth: PairTruth, normalisation: Normalisation = "mean") -> tuple[Points, Points]:
    """Both point maps divided by one number for each pair: mean or median distance of their valid points from the origin."""
    if normalisation == "mean":
        lengths = [torch.where(valid[..., None], points, 0).norm(dim=-1).sum((1, 2)) for points, valid in _views(points1, points2, truth)]
        num_valid = truth.valid1.sum((1, 2)) + truth.valid2.sum((1, 2))
        scale = (lengths[0] + lengths[1]) / (num_valid + _SMALLEST_SCALE)
    else:
        scale = _joint(points1, points2, truth).norm(dim=-1).nanmedian(1).values.detach().nan_to_num(nan=1.0)
    scale = scale.clamp(min=_SMALLEST_SCALE)[:, None, None, None]
    return points1 / scale, points2 / scale


def _check(points1: Points, points2: Points, truth: PairTruth) -> None:
    for number, found, wanted, valid in ((1, points1, truth.points1, truth.valid1), (2, points2, truth.points2, truth.valid2)):
        if found.ndim != 4 or found.shape != wanted.shape or wanted.shape[:-1] != valid.shape or found.shape[-1] != 3:
            shapes = f"predicted {tuple(found.shape)}, true {tuple(wanted.shape)}, valid {tuple(valid.shape)}"
            raise InputError(f"DUSt3R's loss, image {number}: {shapes}; must be (batch, height, width, 3) twice and (batch, height, width)")
    if truth.world_from_camera1.shape != (len(points1), 4, 4):
        raise InputError(f"DUSt3R's loss: world_from_camera1 {tuple(truth.world_from_camera1.shape)}; must be ({len(points1)}, 4, 4)")


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _in_camera1(truth: PairTruth) -> tuple[Points, Points]:
    camera1_from_world = se3.inverse(_exact(truth.world_from_camera1))[:, None]
    return se3.transform_points(camera1_from_world, _exact(truth.points1)), se3.transform_points(camera1_from_world, _exact(truth.points2))


def _views(points1: Points, points2: Points, truth: PairTruth) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (points1, truth.valid1), (points2, truth.valid2)


def _joint(points1: Points, points2: Points, truth: PairTruth) -> Float[Tensor, "batch n 3"]:
    """The points of both images of each pair, NaN where not valid."""
    return torch.cat([torch.where(valid[..., None], points, torch.nan).flatten(1, 2) for points, valid in _views(points1, points2, truth)], dim=1)


def _distances(found: tuple[Points, Points], wanted: tuple[Points, Points], truth: PairTruth) -> list[Float[Tensor, " n"]]:
    """Distances of the valid pixels of the whole batch, for each image."""
    valid = (truth.valid1, truth.valid2)
    return [(a[where] - b[where]).norm(dim=-1) for a, b, where in zip(found, wanted, valid, strict=True)]


def _mean(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return values.mean() if values.numel() else values.sum()


def _shifted(points1: Points, points2: Points, truth: PairTruth) -> tuple[Points, Points]:
    depth = _joint(points1, points2, truth)[..., 2].nanmedian(1).values.detach().nan_to_num()
    shift = torch.stack([torch.zeros_like(depth), torch.zeros_like(depth), depth], -1)[:, None, None]
    return points1 - shift, points2 - shift


def _size(points1: Points, points2: Points, truth: PairTruth) -> Float[Tensor, "batch 1 1 1"]:
    joint = _joint(points1, points2, truth).detach()
    centre = joint.nanmedian(1, keepdim=True).values
    return (joint - centre).norm(dim=-1).nanmedian(1).values.nan_to_num(nan=1.0)[:, None, None, None]
