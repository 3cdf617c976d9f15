"""A reconstructed scene, and how far the pairs' point maps are from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry import se3
from perception.geometry.global_alignment.observations import PairObservations

_NUM_PAIRS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Scene:
    """Cameras, depths and where each pair's point maps belong; one scale for all of it, unknown but for preset poses.

    world_from_camera (images, 4, 4) rigid · focal_px (images,) · principal_px (images, 2) as (x, y), pixel centres at integers · depth (images,
    pixels) along the optical axis, flattened as in `PairObservations` · world_from_pair (pairs, 4, 4), similarities.
    """

    world_from_camera: Tensor
    focal_px: Tensor
    principal_px: Tensor
    depth: Tensor
    world_from_pair: Tensor

    def world_points(self, pixels: Tensor) -> Tensor:
        """pixels (images, n, 2) that the depths belong to → points (images, n, 3)."""
        return se3.transform_points(self.world_from_camera, rays(pixels, self.focal_px, self.principal_px) * self.depth[..., None])


def rays(pixels: Tensor, focal_px: Tensor, principal_px: Tensor) -> Tensor:
    """Points (images, n, 3) of depth 1 that are seen at pixels (images, n, 2)."""
    xy = (pixels - principal_px[:, None]) / focal_px[:, None, None]
    return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)


def alignment_loss(observations: PairObservations, scene: Scene) -> Tensor:
    """DUSt3R's objective: mean over both sides' pixels of log(confidence) times the distance between scene and moved point map, summed over sides.

    A scalar that can be differentiated by everything in `scene`; in the scene's unit, so that it shrinks with the scene.
    """
    world = scene.world_points(observations.pixels())
    weights, images = observations.weights(), observations.images
    total = world.new_zeros(())
    for start in range(0, len(observations.edges), _NUM_PAIRS_AT_ONCE):
        part = slice(start, start + _NUM_PAIRS_AT_ONCE)
        moved = se3.transform_points(scene.world_from_pair[part], observations.points[:, part].to(world.dtype))
        distance = (world[images[:, part]] - moved).norm(dim=-1)
        total = total + (weights[:, part].to(world.dtype) * distance).sum()
    return total
