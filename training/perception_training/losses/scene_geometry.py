"""Geometry of a clip as Pi3's losses compare it: what is true, what a network says, and both brought to one unit.

Shapes: batch, frames, height, width; cameras are OpenCV's. The unit of a clip is the mean distance of its valid points from an origin.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.point_maps import points_in_world

_SMALLEST_UNIT = 1e-8


class SceneTruth(NamedTuple):
    """The world is the first frame's camera. Points that are not valid may be anything finite."""

    local_points: Float[Tensor, "batch frame height width 3"]
    world_points: Float[Tensor, "batch frame height width 3"]
    valid: Bool[Tensor, "batch frame height width"]
    world_from_camera: Float[Tensor, "batch frame 4 4"]


class ScenePrediction(NamedTuple):
    """confidence: logits. world_points: where a network predicts them beside the local points and not through them. Both may be left out."""

    local_points: Float[Tensor, "batch frame height width 3"]
    world_from_camera: Float[Tensor, "batch frame 4 4"]
    confidence: Float[Tensor, "batch frame height width"] | None = None
    world_points: Float[Tensor, "batch frame height width 3"] | None = None


def scene_truth(
    world_points: Float[Tensor, "batch frame height width 3"],
    valid: Bool[Tensor, "batch frame height width"],
    world_from_camera: Float[Tensor, "batch frame 4 4"],
) -> SceneTruth:
    """True points of any world, in that of the first frame's camera. All lengths are divided by the mean distance of the valid points from it.

    Points that are not finite count as not valid. A clip without valid points keeps its unit. Raises InputError where shapes do not fit.
    """
    shape = tuple(world_points.shape)
    if len(shape) != 5 or shape[-1] != 3 or tuple(valid.shape) != shape[:-1] or tuple(world_from_camera.shape) != (*shape[:2], 4, 4):
        raise InputError(
            f"scene truth: points {shape}, valid {tuple(valid.shape)}, poses {tuple(world_from_camera.shape)}; "
            "must be (batch, frames, height, width, 3), the same without the 3, and (batch, frames, 4, 4)"
        )
    with torch.autocast(world_points.device.type, enabled=False):
        finite = torch.isfinite(world_points).all(-1)
        valid = valid & finite
        first_from_world = se3.inverse(world_from_camera[:, :1])
        points = points_in_world(torch.where(finite[..., None], world_points, 0.0), first_from_world.expand_as(world_from_camera))
        poses = first_from_world @ world_from_camera
        unit = unit_of(points, valid)
        points, poses = points / unit[:, None, None, None, None], scaled_poses(poses, 1 / unit)
        return SceneTruth(points_in_world(points, se3.inverse(poses)), points, valid, poses)


def normalised_prediction(prediction: ScenePrediction, valid: Bool[Tensor, "batch frame height width"]) -> ScenePrediction:
    """Points and camera positions divided by the mean distance of the local points from their own cameras, where the truth is valid.

    The unit is a part of the graph: gradients see that the overall scale does not matter. All in float32 at least, also under autocast.
    """
    check_prediction(prediction, valid)
    with torch.autocast(valid.device.type, enabled=False):
        local_points = _exact(prediction.local_points)
        unit = unit_of(local_points, valid)
        spread = unit[:, None, None, None, None]
        return ScenePrediction(
            local_points / spread,
            scaled_poses(_exact(prediction.world_from_camera), 1 / unit),
            None if prediction.confidence is None else _exact(prediction.confidence),
            None if prediction.world_points is None else _exact(prediction.world_points) / spread,
        )


def unit_of(points: Float[Tensor, "batch frame height width 3"], valid: Bool[Tensor, "batch frame height width"]) -> Float[Tensor, " batch"]:
    """Mean distance of the valid points from the origin, over all frames of a clip. 1 where no point is valid."""
    distance = torch.where(valid, torch.linalg.vector_norm(points, dim=-1), 0.0)
    count = valid.sum((1, 2, 3))
    mean = (distance.sum((1, 2, 3)) / count.clamp(min=1)).clamp(min=_SMALLEST_UNIT)
    return torch.where(count > 0, mean, 1.0)


def scaled_poses(poses: Float[Tensor, "batch frame 4 4"], scale: Float[Tensor, " batch"]) -> Float[Tensor, "batch frame 4 4"]:
    """Poses whose translations are multiplied by their clip's scale."""
    last_column = torch.cat([poses[..., :3, 3:] * scale[:, None, None, None], poses[..., 3:, 3:]], dim=-2)
    return torch.cat([poses[..., :3], last_column], dim=-1)


def check_prediction(prediction: ScenePrediction, valid: Tensor) -> None:
    """Raises InputError where a prediction is not for the pixels of `valid` (batch, frames, height, width)."""
    shape = tuple(valid.shape)
    expected = {
        "local_points": (*shape, 3),
        "world_from_camera": (*shape[:2], 4, 4),
        "confidence": shape,
        "world_points": (*shape, 3),
    }
    for name, value in prediction._asdict().items():
        if value is not None and tuple(value.shape) != expected[name]:
            raise InputError(f"prediction: {name} of shape {tuple(value.shape)}; must be {expected[name]} for truth of {shape}")


def _exact(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
