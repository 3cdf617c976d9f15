"""Cameras and pairs that fit each other better, in closed-form steps that never raise the loss.

The objective is a sum of weighted distances. As it shrinks with the scene, what is minimised is its quotient with the geometric mean of the pairs'
scales, log(loss) - mean(log scale), which no change of unit touches; with preset poses the loss itself. Each round replaces the distances by
quadratics that touch them from above at the present scene (iteratively reweighted least squares) and the logarithm of the loss by its tangent. It
then minimises in turns (a) over the cameras, by one Gauss-Newton step whose depths are eliminated pixel by pixel, and (b) over the pairs, by the
closed form of Procrustes with a barrier for the scale. Unknowns of a round are 7 numbers for each image, and none for pairs or depths. Where rounds
are heading is extrapolated from those before (`extrapolation`); a step is kept only where it lowers the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from perception.geometry import se3
from perception.geometry.global_alignment.extrapolation import Extrapolation, flattened, unflattened
from perception.geometry.global_alignment.observations import PairObservations
from perception.geometry.global_alignment.scene import Scene
from perception.geometry.global_alignment.spanning_tree import normalised, positive_depth
from perception.geometry.rotation_projection import nearest_rotation

_DAMPING = 1e-9
_EXACT = 1e-7
"""Mean distance, as a share of the mean depth, below which a scene counts as exact: float32 input holds no more."""
_SMALLEST_DISTANCE = 1e-6
"""Share of the scene's mean depth below which a distance weighs as this one."""


class Fit(NamedTuple):
    """moved (2, pairs, 3, n): the pairs' points in the world · distance (2, pairs, n) from the scene's points · loss (), a float64."""

    moved: Tensor
    distance: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """Observations in float64, and what may move. Coordinates come before pixels, which is several times as fast on CPUs.

    pixels (images, 2, n) · points (2, pairs, 3, n) · weights (2, pairs, n) · images (2, pairs).
    """

    pixels: Tensor
    points: Tensor
    weights: Tensor
    images: Tensor
    moves_cameras: bool
    moves_focals: bool

    @classmethod
    def of(cls, observations: PairObservations, moves_cameras: bool, moves_focals: bool) -> Problem:
        pixels, points = (value.double().mT.contiguous() for value in (observations.pixels(), observations.points))
        return cls(pixels, points, observations.weights().double(), observations.images, moves_cameras, moves_focals)

    def fit(self, scene: Scene) -> Fit:
        """How well `scene` fits."""
        moved = _moved(scene.world_from_pair, self.points)
        distance = _length(self.world_points(scene)[self.images] - moved)
        return Fit(moved, distance, (self.weights * distance).sum())

    def rays(self, scene: Scene) -> Tensor:
        """(images, 3, n), with depth 1."""
        xy = (self.pixels - scene.principal_px[..., None]) / scene.focal_px[:, None, None]
        return torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)

    def world_points(self, scene: Scene) -> Tensor:
        """(images, 3, n)"""
        return _moved(scene.world_from_camera, self.rays(scene) * scene.depth[:, None])


def _moved(a_from_b: Tensor, points: Tensor) -> Tensor:
    """Points (…, 3, n) of frame b in frame a."""
    return a_from_b[..., :3, :3] @ points + a_from_b[..., :3, 3:]


def _length(vectors: Tensor) -> Tensor:
    """(…, 3, n) → (…, n)"""
    return (vectors * vectors).sum(-2).sqrt()


def refine(problem: Problem, scene: Scene, *, max_rounds: int, tolerance: float, base_scale: float | None) -> tuple[Scene, int]:
    """The scene after rounds that each lower the loss, and their number; ends when two in a row lower it by less than the share `tolerance`.

    base_scale: geometric mean of the pairs' scales, which `scene` has; None where the scale is not free, as poses are preset.
    """
    extrapolation = Extrapolation()
    fit = problem.fit(scene)
    floor = _EXACT * float(problem.weights.sum() * scene.depth.mean())
    num_idle = 0
    for number in range(max_rounds):
        if num_idle == 2 or float(fit.loss) <= floor:
            return scene, number
        plain = _unit(_improved(problem, scene, fit, base_scale), base_scale)
        found = _accepted(problem, scene, plain, extrapolation, fit, base_scale)
        if found is None:
            return scene, number
        num_idle = num_idle + 1 if float(fit.loss - found[1].loss) < tolerance * float(fit.loss) else 0
        scene, fit = found
    return scene, max_rounds


def _accepted(
    problem: Problem, scene: Scene, plain: Scene, extrapolation: Extrapolation, before: Fit, base_scale: float | None
) -> tuple[Scene, Fit] | None:
    """The extrapolated scene where it is better than the one `before`, else the round's own result, else None."""
    proposed = extrapolation.propose(flattened(scene), flattened(plain))
    if proposed is not None:
        candidate = unflattened(proposed, scene)
        if not problem.moves_cameras:
            candidate = replace(candidate, world_from_camera=scene.world_from_camera)
        if not problem.moves_focals:
            candidate = replace(candidate, focal_px=scene.focal_px)
        candidate = _unit(candidate, base_scale)
        fit = problem.fit(candidate)
        if fit.loss < before.loss:
            return candidate, fit
        extrapolation.restart()
    fit = problem.fit(plain)
    return (plain, fit) if fit.loss < before.loss else None


def _unit(scene: Scene, base_scale: float | None) -> Scene:
    return scene if base_scale is None else normalised(scene, base_scale)


def _improved(problem: Problem, scene: Scene, fit: Fit, base_scale: float | None) -> Scene:
    """One round: cameras, then pairs; the unit may change."""
    reweighted = problem.weights / fit.distance.clamp(min=_SMALLEST_DISTANCE * float(scene.depth.mean()))
    scene = _with_better_cameras(problem, scene, fit.moved, reweighted)
    barrier = fit.loss.new_zeros(()) if base_scale is None else fit.loss / problem.images.shape[1]
    return replace(scene, world_from_pair=_best_pairs(problem, scene, reweighted, barrier))


def _totals(problem: Problem, values: Tensor, num_images: int) -> Tensor:
    """Sums (images, …, n) over everything that was seen of an image, of values (2, pairs, …, n)."""
    total = values.new_zeros(num_images, *values.shape[2:])
    return total.index_add_(0, problem.images.flatten(), values.flatten(0, 1))


def _with_better_cameras(problem: Problem, scene: Scene, moved: Tensor, weights: Tensor) -> Scene:
    num_images = len(scene.depth)
    total = _totals(problem, weights, num_images)
    mean = _totals(problem, weights[..., None, :] * moved, num_images) / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]
    ray, seen, depth = _seen(problem, scene, mean)
    if problem.moves_cameras or problem.moves_focals:
        step = _camera_step(problem, ray, seen, depth, total)
        scene = replace(scene, world_from_camera=scene.world_from_camera @ _motions(step), focal_px=scene.focal_px * step[:, 6].exp())
        _, _, depth = _seen(problem, scene, mean)
    return replace(scene, depth=positive_depth(torch.where(total > 0, depth, scene.depth)))


def _seen(problem: Problem, scene: Scene, world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rays (images, 3, n), points (images, 3, n) in camera axes, and the depths (images, n) of the places on the rays that are nearest to them."""
    ray, seen = problem.rays(scene), _moved(se3.inverse(scene.world_from_camera), world)
    return ray, seen, (ray * seen).sum(1) / (ray * ray).sum(1)


def _camera_step(problem: Problem, ray: Tensor, seen: Tensor, depth: Tensor, weight: Tensor) -> Tensor:
    """(images, 7): twist of each camera in its own axes and change of log focal length; depths follow their rays (variable projection)."""
    x, y, z = seen.unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    columns = [(-one, zero, zero), (zero, -one, zero), (zero, zero, -one), (zero, z, -y), (-z, zero, x), (y, -x, zero)]
    columns.append((depth * ray[:, 0], depth * ray[:, 1], zero))
    free = [*range(6 * (not problem.moves_cameras), 6), *[6] * problem.moves_focals]
    jacobian = torch.stack([torch.stack(columns[index], dim=1) for index in free], dim=1)
    along = (jacobian * (ray / _length(ray)[:, None])[:, None]).sum(2)
    weighted = (jacobian * weight[:, None, None]).flatten(2)
    # What moves points along their rays is made up for by depths and does not count.
    normal = weighted @ jacobian.flatten(2).mT - (along * weight[:, None]) @ along.mT
    normal = normal + torch.diag_embed(_DAMPING * normal.diagonal(dim1=1, dim2=2) + torch.finfo(normal.dtype).tiny)
    residual = (seen - depth[:, None] * ray).flatten(1)[..., None]
    step = jacobian.new_zeros(len(ray), 7)
    step[:, free] = -torch.linalg.solve(normal, weighted @ residual)[..., 0]
    return step


def _motions(step: Tensor) -> Tensor:
    """(images, 4, 4) of the twists that begin (images, 7); in a tenth of the operations of `se3.exp`, which counts where so few are moved."""
    generator = step.new_zeros(len(step), 4, 4)
    generator[:, [2, 0, 1], [1, 2, 0]] = step[:, 3:6]
    generator[:, [1, 2, 0], [2, 0, 1]] = -step[:, 3:6]
    generator[:, :3, 3] = step[:, :3]
    return torch.linalg.matrix_exp(generator)


def _best_pairs(problem: Problem, scene: Scene, weights: Tensor, barrier: Tensor) -> Tensor:
    """(pairs, 4, 4): similarities with the least weighted squares between moved points and scene, minus barrier * log(scale)."""
    world, own = problem.world_points(scene)[problem.images], problem.points
    weighted = weights[..., None, :] * own
    total = weights.sum((0, 2))[:, None]
    own_mean, world_mean = weighted.sum((0, 3)) / total, (world @ weights[..., None]).sum(0)[..., 0] / total
    covariance = (world @ weighted.mT).sum(0) - total[..., None] * world_mean[..., None] * own_mean[:, None]
    spread = (weighted * own).sum((0, 2, 3)) - total[:, 0] * (own_mean**2).sum(1)
    rotation = nearest_rotation(covariance)
    fit = (rotation * covariance).sum((1, 2))
    scale = (fit + (fit**2 + 4 * spread * barrier).sqrt()) / (2 * spread)
    linear = scale[:, None, None] * rotation
    return se3.from_rotation_translation(linear, world_mean - (linear @ own_mean[..., None])[..., 0])
