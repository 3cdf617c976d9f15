"""Losses of Pi3 (Wang et al., "π³: Permutation-equivariant visual geometry learning", 2025; yyfz/Pi3, branch training): local point maps up to one
scale for each clip, normals, relative poses in that scale, and in a stage of its own the confidence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.robust_scale import robust_scale_of_points
from perception_training.losses.scene_geometry import ScenePrediction, SceneTruth, normalised_prediction, scaled_poses
from perception_training.losses.surface_normals import surface_normal_loss

WEIGHTS = {"points": 1.0, "normals": 1.0, "translation": 10.0, "rotation": 0.1, "world_points": 1.0, "confidence": 0.05}
"""Of the terms in the total. The published camera loss is 0.1 (100 translation + rotation)."""

POINTS_FOR_SCALE = 4096
GOOD_RESIDUAL = 0.02
"""Weighted residual, mean over x, y and z, below which a point is one to be confident of."""
_HUBER_DELTA, _COSINE_MARGIN, _NEAREST_SHARE = 0.1, 1e-6, 0.1


class Pi3Loss(NamedTuple):
    """total: weighted sum of the terms · terms: scalars by name, before weighting · scale (batch): from the normalised prediction to the truth."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    scale: Float[Tensor, " batch"]


def pi3_loss(
    prediction: ScenePrediction,
    truth: SceneTruth,
    has_clean_surfaces: Bool[Tensor, " batch"],
    sky: Bool[Tensor, "batch frame height width"] | None = None,
) -> Pi3Loss:
    """Terms, all float32 at least, also under autocast:

    points: mean of weight |scale predicted - true| over the coordinates of valid points; the weight is one over the true depth. normals: of the clips
    with clean surfaces only (rendered or scanned). translation, rotation: of all ordered pairs of frames, Huber and radians. world_points: as points,
    if the prediction has any. confidence: cross entropy of whether a valid point is nearer than GOOD_RESIDUAL, and of "no" in the sky, if the
    prediction has confidence: leave it out except in the stage that trains nothing else.

    The true unit is that of `scene_truth`. A term without anything to count is 0 and has a gradient of 0. Raises InputError where shapes do not fit.
    """
    if tuple(has_clean_surfaces.shape) != tuple(truth.valid.shape[:1]):
        raise InputError(f"has_clean_surfaces: shape {tuple(has_clean_surfaces.shape)}; must be {tuple(truth.valid.shape[:1])}, one for each clip")
    if sky is not None and sky.shape != truth.valid.shape:
        raise InputError(f"sky: shape {tuple(sky.shape)}; must be {tuple(truth.valid.shape)}")
    prediction = normalised_prediction(prediction, truth.valid)
    with torch.autocast(truth.valid.device.type, enabled=False):
        weight = inverse_depth_weight(truth)
        scale = scale_to_truth(prediction.local_points, truth, weight)
        aligned = scale[:, None, None, None, None] * prediction.local_points
        residual = weight[..., None] * (aligned - truth.local_points).abs()
        clean = has_clean_surfaces
        translation, rotation = relative_pose_terms(scaled_poses(prediction.world_from_camera, scale), truth.world_from_camera)
        terms = {
            "points": _mean_where(residual, truth.valid),
            "normals": surface_normal_loss(aligned[clean], truth.local_points[clean], truth.valid[clean]),
            "translation": translation,
            "rotation": rotation,
        }
        if prediction.world_points is not None:
            aligned_world = scale[:, None, None, None, None] * prediction.world_points
            terms["world_points"] = _mean_where(weight[..., None] * (aligned_world - truth.world_points).abs(), truth.valid)
        if prediction.confidence is not None:
            is_good = residual.detach().mean(-1) < GOOD_RESIDUAL
            terms["confidence"] = confidence_term(prediction.confidence, is_good, truth.valid, sky)
        total = torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()
    return Pi3Loss(total, terms, scale)


def inverse_depth_weight(truth: SceneTruth) -> Float[Tensor, "batch frame height width"]:
    """One over the true depth, which is taken as a tenth of its frame's mean over valid pixels at least."""
    depth = truth.local_points[..., 2]
    mean = torch.where(truth.valid, depth, 0.0).sum((-2, -1), keepdim=True) / truth.valid.sum((-2, -1), keepdim=True).clamp(min=1)
    return 1 / (torch.maximum(depth, _NEAREST_SHARE * mean) + 1e-6)


@torch.no_grad()
def scale_to_truth(
    local_points: Float[Tensor, "batch frame height width 3"], truth: SceneTruth, weight: Float[Tensor, "batch frame height width"]
) -> Float[Tensor, " batch"]:
    """Positive scale of each clip with the least weighted absolute differences over POINTS_FOR_SCALE valid points, evenly spread in their order.

    Where it would be negative its sign is turned, as published; 1 where no point is valid. Without gradient.
    """
    valid = truth.valid.flatten(1)
    rank = valid.cumsum(1)
    count = rank[:, -1:]
    # The k-th of the drawn points is the one of rank k count / POINTS_FOR_SCALE among the valid ones. No boolean index: it would wait for the GPU.
    drawn = torch.arange(POINTS_FOR_SCALE, device=valid.device) * count // POINTS_FOR_SCALE + 1
    index = torch.searchsorted(rank, drawn).clamp(max=valid.shape[1] - 1)
    known = valid.gather(1, index)
    source, target = (points.flatten(1, 3).gather(1, index[..., None].expand(-1, -1, 3)) for points in (local_points, truth.local_points))
    scale = robust_scale_of_points(source, target, torch.where(known, weight.flatten(1).gather(1, index), 0.0)).scale.abs()
    return torch.where(torch.isnan(scale), 1.0, scale)


def relative_pose_terms(
    world_from_camera: Float[Tensor, "batch frame 4 4"], true_world_from_camera: Float[Tensor, "batch frame 4 4"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Over all ordered pairs of different frames: mean Huber loss of the relative translations, mean angle in radians between the relative rotations.

    Angles below 0.08 degrees have no gradient: their cosine is clamped. Both are 0 for a single frame.
    """
    num_frames = world_from_camera.shape[1]
    if num_frames < 2:
        nothing = world_from_camera.sum() * 0
        return nothing, nothing
    pairs = ~torch.eye(num_frames, dtype=torch.bool, device=world_from_camera.device)
    relative, true_relative = ((se3.inverse(poses)[:, :, None] @ poses[:, None])[:, pairs] for poses in (world_from_camera, true_world_from_camera))
    translation = functional.huber_loss(relative[..., :3, 3], true_relative[..., :3, 3], delta=_HUBER_DELTA)
    trace = (relative[..., :3, :3] * true_relative[..., :3, :3]).sum((-2, -1))
    angle = torch.acos(((trace - 1) / 2).clamp(-1 + _COSINE_MARGIN, 1 - _COSINE_MARGIN))
    return translation, angle.mean()


def confidence_term(
    logits: Float[Tensor, "batch frame height width"],
    is_good: Bool[Tensor, "batch frame height width"],
    valid: Bool[Tensor, "batch frame height width"],
    sky: Bool[Tensor, "batch frame height width"] | None,
) -> Float[Tensor, ""]:
    """Cross entropy of `is_good` over valid pixels plus that of "not good" over pixels of the sky that are not valid."""
    term = _mean_where(functional.binary_cross_entropy_with_logits(logits, is_good.to(logits.dtype), reduction="none"), valid)
    if sky is not None:
        term = term + _mean_where(functional.softplus(logits), sky & ~valid)
    return term


def _mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of values (..., or ... k) over the counted places (...). 0 where there are none."""
    if values.ndim > counted.ndim:
        values = values.mean(-1)
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)
