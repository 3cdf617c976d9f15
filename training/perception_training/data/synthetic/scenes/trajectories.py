"""Exact 3D trajectories of whatever a query pixel sees, in float64: the ray is cast once, and the point it hits moves with its primitive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.synthetic.scenes.casting import Bundle, Hits, first_hits
from perception_training.data.synthetic.scenes.render import NEAR_M
from perception_training.data.synthetic.scenes.scene import MAX_DEPTH_M, SceneBatch
from perception_training.data.synthetic.scenes.tiling import RaysTo
from perception_training.data.synthetic.scenes.unit_frames import rigid_inverse, unit_from_world

_HIDDEN_BEFORE = 1 - 1e-6
"""A surface before this share of the depth hides a point; the point's own surface lies at 1 up to the rounding of float64."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """N points through the T frames of B clips. NaN and not visible where the query pixel hits nothing."""

    points_world: Tensor
    """(B, T, N, 3) float64 metres."""
    points_camera: Tensor
    """(B, T, N, 3) float64 in the camera axes of each frame."""
    points_px: Tensor
    """(B, T, N, 2) float64 as (x, y); may lie outside the image; NaN behind the camera."""
    visible: Tensor
    """(B, T, N) bool: before the camera, inside the image, and no surface between."""
    primitive: Tensor
    """(B, N) int64 the primitive that holds the point, -1 for none."""


def trajectories(scene: SceneBatch, queries: Tensor) -> Trajectories:
    """queries (B, N, 3): frame (a whole number), x and y in px, which may lie between pixel centres. InputError for a frame that is not there."""
    num_clips, num_frames = scene.num_clips, scene.num_frames
    if queries.ndim != 3 or len(queries) != num_clips or queries.shape[2] != 3:
        raise InputError(f"query pixels have shape {tuple(queries.shape)}: must be ({num_clips}, points, 3)")
    queries = queries.to(scene.device, torch.float64)
    frame = queries[..., 0].long()
    if frame.numel() and (int(frame.min()) < 0 or int(frame.max()) >= num_frames):
        raise InputError(f"query frames lie in [{int(frame.min())}, {int(frame.max())}]: must lie in [0, {num_frames - 1}]")
    into_unit = unit_from_world(scene)
    points, primitive = _points_at(scene, into_unit, queries, frame)
    clip = torch.arange(num_clips, device=scene.device)[:, None]
    held_by = primitive.clamp(min=0)
    before = scene.world_from_primitive[clip, frame, held_by]
    local = (rigid_inverse(before) @ _homogeneous(points))[:, None]
    poses = scene.world_from_primitive.transpose(1, 2)[clip, held_by].transpose(1, 2)  # (B, T, N, 4, 4)
    world = (poses @ local)[..., :3, 0]
    world = torch.where(primitive[:, None, :, None] >= 0, world, torch.nan)
    camera = (rigid_inverse(scene.world_from_camera)[:, :, None] @ _homogeneous(world))[..., :3, 0]
    depth = camera[..., 2]
    ahead = depth > NEAR_M
    scale = torch.where(ahead, depth, torch.nan)[..., None]
    pixels = camera[..., :2] / scale * scene.intrinsics[:, :, None, :2] + scene.intrinsics[:, :, None, 2:]
    height, width = scene.image_size
    corner = torch.tensor([width - 0.5, height - 0.5], dtype=torch.float64, device=scene.device)
    inside = ((pixels >= -0.5) & (pixels <= corner)).all(-1)
    seen = ahead & inside & (depth < MAX_DEPTH_M)
    seen &= _first_depths(scene, into_unit, world, torch.where(ahead, depth, 1.0)) >= depth * _HIDDEN_BEFORE
    return Trajectories(world, camera, pixels, seen, primitive)


def _homogeneous(points: Tensor) -> Tensor:
    """(..., 3) → columns (..., 4, 1)."""
    return torch.cat([points, torch.ones_like(points[..., :1])], -1)[..., None]


def _from_cameras(scene: SceneBatch, into_unit: Tensor, offset: Tensor, frame: Tensor) -> Hits:
    """First hits of rays from cameras. offset (rows, rays, 3) world axes, one unit along the camera's z · frame (rows,) through all clips."""
    around_camera = into_unit.clone()
    centre = scene.world_from_camera.flatten(0, 1)[:, None, :, 3:]
    around_camera[..., 3] = (into_unit @ centre)[..., 0]
    x, y, z = offset.unbind(-1)
    bundle = Bundle(RaysTo((x, y, z)), frame, around_camera, frame, NEAR_M, MAX_DEPTH_M, shadows=False)
    return first_hits(scene, bundle, None)


def _points_at(scene: SceneBatch, into_unit: Tensor, queries: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """World points (B, N, 3) that query pixels see, and the primitives (B, N) that hold them, -1 for none."""
    clip = torch.arange(scene.num_clips, device=scene.device)[:, None]
    intrinsics, pose = scene.intrinsics[clip, frame], scene.world_from_camera[clip, frame]
    slopes = (queries[..., 1:] - intrinsics[..., 2:]) / intrinsics[..., :2]
    along = (pose[..., :3, :3] @ _homogeneous(slopes))[..., 0]
    hits = _from_cameras(scene, into_unit, along.flatten(0, 1)[:, None], (clip * scene.num_frames + frame).flatten())
    return pose[..., :3, 3] + hits.t.view_as(frame)[..., None] * along, hits.primitive.view_as(frame)


def _first_depths(scene: SceneBatch, into_unit: Tensor, points: Tensor, depth: Tensor) -> Tensor:
    """Depth (B, T, N) of the first surface towards each point. points (B, T, N, 3) world · depth (B, T, N) theirs, not 0."""
    offset = (points - scene.world_from_camera[:, :, None, :3, 3]) / depth[..., None]
    frame = torch.arange(scene.num_clips * scene.num_frames, device=scene.device)
    return _from_cameras(scene, into_unit, offset.flatten(0, 1), frame).t.view_as(depth)
