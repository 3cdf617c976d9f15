"""Images of procedural scenes and what is true of every pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from perception_training.data.synthetic.scenes.casting import Bundle, Hits, first_hits
from perception_training.data.synthetic.scenes.culling import seen_from_camera
from perception_training.data.synthetic.scenes.intersection import Vector
from perception_training.data.synthetic.scenes.scene import MAX_DEPTH_M, SceneBatch
from perception_training.data.synthetic.scenes.shading import lit_by, radiance, sky
from perception_training.data.synthetic.scenes.surface import PrimitiveTable, Surface, surfaces
from perception_training.data.synthetic.scenes.tiling import CameraRays, Tiling, camera_rays
from perception_training.data.synthetic.scenes.unit_frames import unit_from_world

NEAR_M = 1e-3
"""Surfaces nearer to the camera than this along z are not seen."""

_TILE_CPU = (16, 32)
"""Height and width of a tile: small tiles meet few primitives, and rows of 512 rays still fill vector registers."""

_RAYS_TOGETHER_CPU = 65536
_RAYS_TOGETHER_GPU = 1 << 25


@dataclass(frozen=True, eq=False)
class Truth:
    """What the centre of every pixel sees; B clips, T frames."""

    depth: Tensor
    """(B, T, H, W) float32 along z in metres, 0 where nothing is hit."""
    primitive: Tensor
    """(B, T, H, W) int64 index of the primitive, -1 where nothing is hit."""
    object_id: Tensor
    """(B, T, H, W) int32, 0 where nothing is hit."""
    dynamic: Tensor
    """(B, T, H, W) bool: the surface moves in the world."""
    normal: Tensor
    """(B, T, 3, H, W) float32 unit, camera axes, towards the camera; 0 where nothing is hit."""


@dataclass(frozen=True, eq=False)
class Rendering:
    """radiance (B, T, 3, H, W) float32 linear, with exposure, not clamped; None if not asked for · truth: None if not asked for."""

    radiance: Tensor | None
    truth: Truth | None


def render(scene: SceneBatch, *, images: bool = True, truth: bool = True, supersampling: int = 1, culled: bool | None = None) -> Rendering:
    """Render all frames of all clips.

    supersampling: n x n rays for each pixel of the images; truth is always that of the pixel centre · culled: test only pairs of rays and
    primitives that may meet; by default on a CPU. A GPU then never waits for the host. Both ways give the same result.
    """
    culled = scene.device.type == "cpu" if culled is None else culled
    if supersampling == 1:
        return _render(scene, images, truth, culled)
    exact = _render(scene, False, True, culled).truth if truth else None
    if not images:
        return Rendering(None, exact)
    fine = _render(_magnified(scene, supersampling), True, False, culled).radiance
    assert fine is not None
    return Rendering(avg_pool2d(fine.flatten(0, 1), supersampling).unflatten(0, fine.shape[:2]), exact)


def to_display(radiance: Tensor) -> Tensor:
    """Linear radiance → uint8 display values, clipped, gamma 2.2; the inverse of what `TextureStack.from_images` does."""
    return radiance.clamp(0, 1).pow(1 / 2.2).mul(255).round().to(torch.uint8)


def _magnified(scene: SceneBatch, factor: int) -> SceneBatch:
    """The same view in `factor` times as many pixels each way. Centres lie at integers, so edges at half pixels are what scales."""
    fx, fy, cx, cy = scene.intrinsics.unbind(-1)
    middle = [(centre + 0.5) * factor - 0.5 for centre in (cx, cy)]
    height, width = scene.image_size
    intrinsics = torch.stack([fx * factor, fy * factor, *middle], -1)
    return replace(scene, intrinsics=intrinsics, image_size=(height * factor, width * factor))


def _render(scene: SceneBatch, images: bool, truth: bool, culled: bool) -> Rendering:
    height, width = scene.image_size
    tile_height, tile_width = _TILE_CPU if culled else scene.image_size
    tiling = Tiling(height, width, tile_height, tile_width)
    rays = camera_rays(scene, tiling)
    frame = tiling.frame_of_row(scene.num_clips * scene.num_frames, scene.device)
    hits = seen(scene, rays, frame, culled)
    step = max(1, (_RAYS_TOGETHER_CPU if scene.device.type == "cpu" else _RAYS_TOGETHER_GPU) // rays.num_rays)
    pieces = [slice(start, start + step) for start in range(0, rays.num_rows, step)]
    table = PrimitiveTable.of(scene)
    parts = [surfaces(scene, table, rays, hits, frame, rows, textured=images) for rows in pieces]
    surface = Surface.joined(parts)
    shape = (scene.num_clips, scene.num_frames)
    linear = None
    if images:
        lit = lit_by(scene, surface, hits.primitive >= 0, frame, culled)
        colours = [_colours(scene, part, lit[:, rows], rays, hits, frame, rows) for part, rows in zip(parts, pieces, strict=True)]
        linear = torch.stack([tiling.image(torch.cat(channel)) for channel in zip(*colours, strict=True)], 1).unflatten(0, shape)
    return Rendering(linear, _truth(scene, tiling, hits, surface.normal, frame) if truth else None)


def seen(scene: SceneBatch, rays: CameraRays, frame: Tensor, culled: bool) -> Hits:
    """The first hits of rays from the cameras; t is the depth."""
    unit_from_camera = unit_from_world(scene) @ scene.world_from_camera.flatten(0, 1)[:, None]
    bundle = Bundle(rays, frame, unit_from_camera.float(), frame, NEAR_M, MAX_DEPTH_M, shadows=False)
    return first_hits(scene, bundle, seen_from_camera(scene, rays) if culled else None)


def _colours(scene: SceneBatch, surface: Surface, lit: Tensor, rays: CameraRays, hits: Hits, frame: Tensor, rows: slice) -> Vector:
    """Red, green and blue (rows, rays) of a piece, with exposure."""
    hit = hits.primitive[rows] >= 0
    exposure = scene.exposure.flatten()[frame[rows], None]
    bright, behind = radiance(scene, surface, lit, frame[rows]), sky(scene, rays, frame, rows)
    red, green, blue = (torch.where(hit, one, other) * exposure for one, other in zip(bright, behind, strict=True))
    return red, green, blue


def _truth(scene: SceneBatch, tiling: Tiling, hits: Hits, normal: Vector, frame: Tensor) -> Truth:
    shape = (scene.num_clips, scene.num_frames)
    hit = hits.primitive >= 0
    index = (frame // scene.num_frames)[:, None] * scene.num_primitives + hits.primitive.clamp(min=0)

    def image(rows: Tensor) -> Tensor:
        return tiling.image(rows).unflatten(0, shape)

    world_from_camera = scene.world_from_camera.flatten(0, 1)[frame, :3, :3].float()
    normals = []
    for axis in range(3):
        row = [world_from_camera[:, other, axis, None] for other in range(3)]
        turned = torch.addcmul(torch.addcmul(normal[0] * row[0], normal[1], row[1]), normal[2], row[2])
        normals.append(image(torch.where(hit, turned, 0)))
    return Truth(
        depth=image(torch.where(hit, hits.t, 0)),
        primitive=image(hits.primitive),
        object_id=image(torch.where(hit, scene.object_id.flatten()[index], 0)),
        dynamic=image(scene.is_dynamic.flatten()[index] & hit),
        normal=torch.stack(normals, 2),
    )
