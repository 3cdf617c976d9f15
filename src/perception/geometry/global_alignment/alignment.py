"""From point maps of pairs to one scene: cameras, focal lengths and depth images of all images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.global_alignment.cameras import KnownCameras
from perception.geometry.global_alignment.observations import PairObservations
from perception.geometry.global_alignment.problem import Problem
from perception.geometry.global_alignment.refinement import refine
from perception.geometry.global_alignment.scene import Scene, alignment_loss, rays
from perception.geometry.global_alignment.spanning_tree import first_scene, positive_depth

_SMALLEST_DISTANCE = 1e-6
_NUM_DEPTH_ROUNDS = 5
_REFINED_SOFTNESS = 0.01
_MAX_POINTS_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(Checked):
    """How much is computed. Pixels are counted in the largest image, of which a regular grid is taken."""

    coarse_pixels: Annotated[int, Range(16)] = 256
    """Pixels for most of the work."""
    fine_pixels: Annotated[int, Range(16)] = 4096
    """Pixels for the start and for the last rounds."""
    coarse_rounds: Annotated[int, Range(0)] = 60
    """At most as many rounds on few pixels."""
    fine_rounds: Annotated[int, Range(0)] = 30
    """At most as many rounds on more pixels."""
    tolerance: Annotated[float, Range(0.0, 0.1)] = 1e-4
    """End when rounds lower the loss by a smaller share."""
    base_scale: Annotated[float, Range(1e-6)] = 0.5
    """Geometric mean of the pairs' scales, which sets the scene's unit where no poses are preset."""


@dataclass(frozen=True, eq=False)
class AlignedScene:
    """What `align` found; float64 but for the maps.

    world_from_camera (images, 4, 4) · focal_px (images,) · principal_px (images, 2) as (x, y), pixel centres at integers · depth: one (height, width)
    for each image, along the optical axis · confidence likewise: the best of any pair, 0 or 1 upwards · world_from_pair (pairs, 4, 4), similarities ·
    start_loss, loss: objective of the start and of this scene, never larger · num_rounds of refinement.
    """

    world_from_camera: Tensor
    focal_px: Tensor
    principal_px: Tensor
    depth: list[Tensor]
    confidence: list[Tensor]
    world_from_pair: Tensor
    start_loss: float
    loss: float
    num_rounds: int

    def intrinsics(self) -> Tensor:
        """(images, 3, 3)"""
        matrix = torch.eye(3, dtype=self.focal_px.dtype, device=self.focal_px.device).repeat(len(self.focal_px), 1, 1)
        matrix[:, 0, 0] = matrix[:, 1, 1] = self.focal_px
        matrix[:, :2, 2] = self.principal_px
        return matrix

    def points(self) -> list[Tensor]:
        """One (height, width, 3) for each image: its pixels' points in the world."""
        found = []
        for depth, matrix, pose in zip(self.depth, self.intrinsics(), self.world_from_camera, strict=True):
            y, x = torch.meshgrid(*(torch.arange(size, dtype=matrix.dtype, device=matrix.device) for size in depth.shape), indexing="ij")
            own = torch.stack([(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1], torch.ones_like(x)], -1) * depth[..., None]
            found.append(se3.transform_points(pose, own.flatten(0, 1)).view(*depth.shape, 3).to(depth.dtype))
        return found

    def cleaned_confidence(self, tolerance: float = 1e-3) -> list[Tensor]:
        """Confidences with 0 at pixels whose points float before another image's surface, by more than this share, and are less sure than it.

        Images are gone through in their order, and one that was cleaned judges the next with what is left.
        """
        confidence = [values.clone() for values in self.confidence]
        camera_from_world, intrinsics = se3.inverse(self.world_from_camera), self.intrinsics()
        for image, points in enumerate(self.points()):
            for other, depth in enumerate(self.depth):
                if other == image:
                    continue
                seen = se3.transform_points(camera_from_world[other], points.flatten(0, 1).double())
                xy = (seen @ intrinsics[other].T)[:, :2] / seen[:, 2:]
                inside = (seen[:, 2] > 0) & (xy.round() >= 0).all(1) & (xy.round() < xy.new_tensor([depth.shape[1], depth.shape[0]])).all(1)
                rows = inside.nonzero().flatten()
                x, y = xy[rows].round().long().unbind(1)
                own = confidence[image].view(-1)
                floats = (seen[rows, 2] < (1 - tolerance) * depth[y, x]) & (own[rows] < confidence[other][y, x])
                own[rows[floats]] = 0
        return confidence


@torch.no_grad()
def align(observations: PairObservations, known: KnownCameras | None = None, config: AlignmentConfig | None = None) -> AlignedScene:
    """The scene that minimises `alignment_loss`, started from the maximum spanning tree (`spanning_tree`) and refined (`refinement`).

    Cameras, focal lengths and pairs are found on a grid of pixels; depths of all pixels follow from them. Raises InputError where pairs do not
    connect the images, pixels with confidence are too few, or what is known does not fit.
    """
    config = config or AlignmentConfig()
    known = (known or KnownCameras()).with_principal_points(observations)
    known.check(observations.num_images)
    has_poses, has_focals = known.world_from_camera is not None, known.focal_px is not None
    base_scale = None if has_poses else config.base_scale
    fine_step = _step(observations, config.fine_pixels)
    fine = observations.thinned(fine_step) if fine_step > 1 else observations
    start = scene = first_scene(fine, known.thinned(fine_step), base_scale)
    coarse_step = _step(fine, config.coarse_pixels)
    num_rounds, softness = 0, 1.0
    if coarse_step > 1 and config.coarse_rounds:
        coarse = fine.thinned(coarse_step)
        guess = with_depths_of(coarse, _resized(scene, 1 / coarse_step))
        problem = Problem.of(coarse, moves_cameras=not has_poses, moves_focals=not has_focals, base_scale=base_scale)
        guess, num_rounds = refine(problem, guess, max_rounds=config.coarse_rounds, tolerance=config.tolerance)
        guess = with_depths_of(fine, _resized(guess, coarse_step))
        if float(alignment_loss(fine, guess)) < float(alignment_loss(fine, scene)):
            scene, softness = guess, _REFINED_SOFTNESS
    rounds = config.fine_rounds if coarse_step > 1 else config.coarse_rounds + config.fine_rounds
    problem = Problem.of(fine, moves_cameras=not has_poses, moves_focals=not has_focals, base_scale=base_scale)
    scene, num_fine = refine(problem, scene, max_rounds=rounds, tolerance=config.tolerance, softness=softness)
    return _finished(observations, fine_step, start, scene, num_rounds + num_fine)


@torch.no_grad()
def pair_scene(observations: PairObservations, known: KnownCameras | None = None) -> AlignedScene:
    """The scene of two images as the surer of their two pairs has it, in the axes of its first camera and in its scale; nothing is refined.

    What DUSt3R shows for a pair. Raises InputError unless there are exactly two images.
    """
    if observations.num_images != 2:
        raise InputError(f"pair_scene: {observations.num_images} images; must be two (`align` takes any number)")
    known = (known or KnownCameras()).with_principal_points(observations)
    known.check(2)
    scene = first_scene(observations, known, None)
    return _finished(observations, 1, scene, scene, 0)


def with_depths_of(observations: PairObservations, scene: Scene) -> Scene:
    """The scene with every depth of `observations` found anew, given cameras and pairs: five reweighted least squares along each pixel's ray."""
    ray = rays(observations.pixels().double(), scene.focal_px, scene.principal_px)
    points, weights = observations.points.flatten(0, 1), observations.weights().flatten(0, 1)
    camera_from_world, world_from_pair = se3.inverse(scene.world_from_camera), scene.world_from_pair.repeat(2, 1, 1)
    depth = ray.new_empty(ray.shape[:2])
    for image in range(observations.num_images):
        sides = (observations.images.flatten() == image).nonzero().flatten()
        camera_from_pair = camera_from_world[image] @ world_from_pair[sides]
        for start in range(0, depth.shape[1], max(1, _MAX_POINTS_AT_ONCE // len(sides))):
            part = slice(start, start + max(1, _MAX_POINTS_AT_ONCE // len(sides)))
            seen = se3.transform_points(camera_from_pair, points[sides, part].double())
            depth[image, part] = _depths(ray[image, part], seen, weights[sides, part].double())
    return replace(scene, depth=positive_depth(depth))


def _depths(ray: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
    """Depths (n,) on rays (n, 3) with the least weighted distances to points (sides, n, 3); weight (sides, n)."""
    along, squared = (ray * seen).sum(-1), (ray**2).sum(-1)
    depth = _weighted_depth(along, squared, weight)
    for _ in range(_NUM_DEPTH_ROUNDS):
        distance = (depth[:, None] * ray - seen).norm(dim=-1)
        depth = _weighted_depth(along, squared, weight / distance.clamp(min=_SMALLEST_DISTANCE * float(depth.abs().mean())))
    return depth


def _weighted_depth(along: Tensor, squared: Tensor, weight: Tensor) -> Tensor:
    """(n,) from (sides, n); the plain mean where nothing has a weight."""
    total = weight.sum(0)
    weight = torch.where(total > 0, weight, 1)
    return (weight * along).sum(0) / (weight.sum(0) * squared)


def _step(observations: PairObservations, max_pixels: int) -> int:
    return max(1, math.ceil(math.sqrt(observations.points.shape[2] / max_pixels)))


def _resized(scene: Scene, factor: float) -> Scene:
    """Cameras for images `factor` times as large. Depths stay, and no longer belong to the pixels."""
    return replace(scene, focal_px=scene.focal_px * factor, principal_px=scene.principal_px * factor)


def _finished(observations: PairObservations, step: int, start: Scene, scene: Scene, num_rounds: int) -> AlignedScene:
    """Scenes of every `step`-th pixel to the result at full size; the start where it is better there."""
    if step > 1:
        start, scene = (with_depths_of(observations, _resized(part, step)) for part in (start, scene))
    start_loss, loss = (float(alignment_loss(observations, part)) for part in (start, scene))
    if not loss <= start_loss:
        scene, loss = start, start_loss
    return AlignedScene(
        scene.world_from_camera,
        scene.focal_px,
        scene.principal_px,
        observations.unflatten(scene.depth.float()),
        observations.unflatten(observations.image_confidence()),
        scene.world_from_pair,
        start_loss,
        loss,
        num_rounds,
    )
