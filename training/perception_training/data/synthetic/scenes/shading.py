"""Light on surfaces: Lambert and Blinn-Phong under point lights with hard shadows, ambient light, and the sky behind everything."""

from __future__ import annotations

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.casting import Bundle, first_hits
from perception_training.data.synthetic.scenes.culling import seen_from_light
from perception_training.data.synthetic.scenes.intersection import Vector
from perception_training.data.synthetic.scenes.scene import SceneBatch
from perception_training.data.synthetic.scenes.surface import Surface, dot, normalised
from perception_training.data.synthetic.scenes.tiling import CameraRays, RaysTo
from perception_training.data.synthetic.scenes.unit_frames import unit_from_world

_SHADOW_NEAR = 1e-4
_SHADOW_FAR = 1 - 5e-4
"""Shares of the way from a light to a surface between which other surfaces block it: a surface must not block itself by rounding."""


def lit_by(scene: SceneBatch, surface: Surface, hit: Tensor, frame: Tensor, culled: bool) -> Tensor:
    """(L, rows, rays) bool: the surface faces the light, and nothing that casts shadows stands between. frame (rows,) of each row of rays."""
    lights = scene.light_position.flatten(0, 1).transpose(0, 1)  # (L, frames, 3)
    num_lights, num_frames = lights.shape[:2]
    position = lights.float()[:, frame][..., None]  # (L, rows, 3, 1)
    offset = (surface.point[0] - position[:, :, 0], surface.point[1] - position[:, :, 1], surface.point[2] - position[:, :, 2])
    wanted = (dot(offset, surface.normal) < 0) & hit
    around_light = unit_from_world(scene)[None].repeat(num_lights, 1, 1, 1, 1)
    homogeneous = torch.cat([lights, torch.ones_like(lights[..., :1])], 2).double()
    around_light[..., 3] = (around_light @ homogeneous[:, :, None, :, None])[..., 0]
    light = torch.arange(num_lights, device=scene.device)[:, None]
    bundle = Bundle(
        rays=RaysTo((offset[0].flatten(0, 1), offset[1].flatten(0, 1), offset[2].flatten(0, 1))),
        frame=frame.repeat(num_lights),
        unit_from_ray=around_light.flatten(0, 1).float(),
        origin=(light * num_frames + frame).flatten(),
        near=_SHADOW_NEAR,
        far=_SHADOW_FAR,
        shadows=True,
    )
    candidates = None
    if culled:
        point = [part.repeat(num_lights, 1) for part in surface.point]
        lit_from = position[..., 0].flatten(0, 1)
        candidates = seen_from_light(scene, lit_from, (point[0], point[1], point[2]), wanted.flatten(0, 1), bundle.frame)
    blocked = first_hits(scene, bundle, candidates).primitive >= 0
    return wanted & ~blocked.view_as(wanted)


def radiance(scene: SceneBatch, surface: Surface, lit: Tensor, frame: Tensor) -> Vector:
    """Red, green and blue (rows, rays) that surfaces send to the camera, before exposure. lit (L, rows, rays) · frame (rows,)."""
    clip = frame // scene.num_frames
    diffuse = [scene.ambient[clip, channel, None].expand_as(surface.specular) for channel in range(3)]
    highlight = [torch.zeros_like(surface.specular) for _ in range(3)]
    positions = scene.light_position.flatten(0, 1).float()[frame]
    for light in range(scene.num_lights):
        towards = tuple(positions[:, light, axis, None] - surface.point[axis] for axis in range(3))
        offset = (towards[0], towards[1], towards[2])
        squared = dot(offset, offset).clamp_(min=1e-6)
        direction = normalised(offset)
        received = torch.where(lit[light], dot(direction, surface.normal).clamp_(min=0) / squared, 0)
        half = normalised((direction[0] + surface.view[0], direction[1] + surface.view[1], direction[2] + surface.view[2]))
        gloss = dot(half, surface.normal).clamp_(min=0).pow_(surface.shininess).mul_(surface.specular).mul_(received)
        for channel in range(3):
            colour = scene.light_colour[clip, light, channel, None]
            diffuse[channel] = torch.addcmul(diffuse[channel], colour, received)
            highlight[channel] = torch.addcmul(highlight[channel], colour, gloss)
    red, green, blue = (torch.addcmul(shine, tone, light) for shine, tone, light in zip(highlight, surface.colour, diffuse, strict=True))
    return red, green, blue


def sky(scene: SceneBatch, rays: CameraRays, frame: Tensor, rows: slice) -> Vector:
    """Red, green and blue (rows, rays) where nothing is hit: from the horizon's colour to the zenith's by the height of the ray."""
    frame = frame[rows]
    clip = frame // scene.num_frames
    along = rays.directions(rows, scene.world_from_camera.flatten(0, 1)[frame, :3, :3].float())
    height = normalised(along)[2].clamp_(min=0)
    low, high = scene.background[clip, 0, :, None], scene.background[clip, 1, :, None]
    red, green, blue = (torch.lerp(low[:, channel], high[:, channel], height) for channel in range(3))
    return red, green, blue
