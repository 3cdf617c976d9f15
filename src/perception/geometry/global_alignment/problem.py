"""Observations and a scene in the form that refinement works on: float64, coordinates before pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from perception.geometry import se3
from perception.geometry.global_alignment.observations import PairObservations
from perception.geometry.global_alignment.scene import Scene
from perception.geometry.global_alignment.spanning_tree import normalised, positive_depth

SMALLEST_DISTANCE = 1e-6
"""Share of the scene's mean depth below which a distance weighs as this one."""


class Fit(NamedTuple):
    """moved (2, pairs, 3, n): the pairs' points in the world · distance (2, pairs, n) from the scene's points · loss (), a float64."""

    moved: Tensor
    distance: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """Observations in float64, and what may move. Coordinates come before pixels, which is several times as fast on CPUs.

    pixels (images, 2, n) · points (2, pairs, 3, n) · weights (2, pairs, n) · images (2, pairs) · base_scale: geometric mean of the pairs' scales;
    None where scales are not free, as poses are preset.
    """

    pixels: Tensor
    points: Tensor
    weights: Tensor
    images: Tensor
    moves_cameras: bool
    moves_focals: bool
    base_scale: float | None

    @classmethod
    def of(cls, observations: PairObservations, *, moves_cameras: bool, moves_focals: bool, base_scale: float | None) -> Problem:
        pixels, points = (value.double().mT.contiguous() for value in (observations.pixels(), observations.points))
        return cls(pixels, points, observations.weights().double(), observations.images, moves_cameras, moves_focals, base_scale)

    @property
    def num_pairs(self) -> int:
        return self.images.shape[1]

    def fit(self, scene: Scene) -> Fit:
        """How well `scene` fits."""
        seen = moved(scene.world_from_pair, self.points)
        distance = length(self.world_points(scene)[self.images] - seen)
        return Fit(seen, distance, (self.weights * distance).sum())

    def rays(self, scene: Scene) -> Tensor:
        """(images, 3, n), with depth 1."""
        xy = (self.pixels - scene.principal_px[..., None]) / scene.focal_px[:, None, None]
        return torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)

    def world_points(self, scene: Scene) -> Tensor:
        """(images, 3, n)"""
        return moved(scene.world_from_camera, self.rays(scene) * scene.depth[:, None])

    def unit_of(self, scene: Scene) -> Scene:
        """The same scene in the unit in which losses are compared: where it is free, the pairs' scales have `base_scale` as geometric mean."""
        return scene if self.base_scale is None else normalised(scene, self.base_scale)

    def totals(self, values: Tensor) -> Tensor:
        """Sums (images, …, n) over everything that was seen of an image, of values (2, pairs, …, n)."""
        total = values.new_zeros(len(self.pixels), *values.shape[2:])
        return total.index_add_(0, self.images.flatten(), values.flatten(0, 1))

    def means(self, world: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (images, n) of everything that was seen of an image, and its mean point (images, 3, n); world (2, pairs, 3, n)."""
        total = self.totals(weights)
        return total, self.totals(weights[..., None, :] * world) / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]

    def seen(self, scene: Scene, world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rays (images, 3, n), points `world` (images, 3, n) in camera axes, and depths (images, n) of the places on rays nearest to them."""
        ray, own = self.rays(scene), moved(se3.inverse(scene.world_from_camera), world)
        return ray, own, (ray * own).sum(1) / (ray * ray).sum(1)

    def with_depths(self, scene: Scene, world: Tensor, weights: Tensor) -> Scene:
        """The scene with the depths that fit the pairs' points `world` (2, pairs, 3, n) best in weighted squares."""
        total, mean = self.means(world, weights)
        depth = self.seen(scene, mean)[2]
        return replace(scene, depth=positive_depth(torch.where(total > 0, depth, scene.depth)))


def moved(a_from_b: Tensor, points: Tensor) -> Tensor:
    """Points (…, 3, n) of frame b in frame a."""
    return a_from_b[..., :3, :3] @ points + a_from_b[..., :3, 3:]


def length(vectors: Tensor) -> Tensor:
    """(…, 3, n) → (…, n)"""
    return (vectors * vectors).sum(-2).sqrt()


def reweighted(problem: Problem, fit: Fit, smallest: float) -> Tensor:
    """Weights (2, pairs, n) with which squares of distances touch the distances; those below `smallest` weigh as this one."""
    return problem.weights / fit.distance.clamp(min=smallest)


def small_rotations(vectors: Tensor) -> Tensor:
    """(m, 3, 3) of rotation vectors (m, 3); in a tenth of the calls of `so3.exp`, which counts where so few are turned."""
    skew = vectors.new_zeros(len(vectors), 3, 3)
    skew[:, [2, 0, 1], [1, 2, 0]] = vectors
    skew[:, [1, 2, 0], [2, 0, 1]] = -vectors
    return torch.linalg.matrix_exp(skew)
