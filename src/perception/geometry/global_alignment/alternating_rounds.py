"""Rounds that improve cameras and pairs in turns, for scenes of any number of pairs.

Each minimises (a) over the cameras, by one Gauss-Newton step whose depths are eliminated pixel by pixel, and (b) over the pairs, by the closed form
of Procrustes with a barrier for the scale. Unknowns of a round are 7 numbers for each image, and none for pairs or depths.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from perception.geometry import se3
from perception.geometry.global_alignment.extrapolation import Extrapolation, flattened, unflattened
from perception.geometry.global_alignment.problem import SMALLEST_DISTANCE, Fit, Problem, length, reweighted, small_rotations
from perception.geometry.global_alignment.scene import Scene
from perception.geometry.global_alignment.spanning_tree import positive_depth
from perception.geometry.rotation_projection import nearest_rotation

_DAMPING = 1e-9


class AlternatingRounds:
    """First cameras, then pairs, in closed-form steps that never raise the loss; where rounds are heading is extrapolated (`extrapolation`)."""

    num_idle_to_end = 2

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._extrapolation = Extrapolation()

    def improved(self, scene: Scene, fit: Fit) -> tuple[Scene, Fit] | None:
        """The extrapolated scene where it is better than `scene`, else the round's own result where that is, else None."""
        problem = self._problem
        plain = problem.unit_of(self._round(scene, fit))
        proposed = self._extrapolation.propose(flattened(scene), flattened(plain))
        if proposed is not None:
            candidate = unflattened(proposed, scene)
            if not problem.moves_cameras:
                candidate = replace(candidate, world_from_camera=scene.world_from_camera)
            if not problem.moves_focals:
                candidate = replace(candidate, focal_px=scene.focal_px)
            candidate = problem.unit_of(candidate)
            found = problem.fit(candidate)
            if found.loss < fit.loss:
                return candidate, found
            self._extrapolation.restart()
        found = problem.fit(plain)
        return (plain, found) if found.loss < fit.loss else None

    def _round(self, scene: Scene, fit: Fit) -> Scene:
        """The unit may change."""
        weights = reweighted(self._problem, fit, SMALLEST_DISTANCE * float(scene.depth.mean()))
        scene = _with_better_cameras(self._problem, scene, fit.moved, weights)
        barrier = fit.loss.new_zeros(()) if self._problem.base_scale is None else fit.loss / self._problem.num_pairs
        return replace(scene, world_from_pair=_best_pairs(self._problem, scene, weights, barrier))


def _with_better_cameras(problem: Problem, scene: Scene, world: Tensor, weights: Tensor) -> Scene:
    """Cameras and depths that fit the pairs' points `world` (2, pairs, 3, n) better in squares with `weights` (2, pairs, n)."""
    total, mean = problem.means(world, weights)
    ray, seen, depth = problem.seen(scene, mean)
    if problem.moves_cameras or problem.moves_focals:
        step = _camera_step(problem, ray, seen, depth, total)
        motions = se3.from_rotation_translation(small_rotations(step[:, 3:6]), step[:, :3])
        scene = replace(scene, world_from_camera=scene.world_from_camera @ motions, focal_px=scene.focal_px * step[:, 6].exp())
        depth = problem.seen(scene, mean)[2]
    return replace(scene, depth=positive_depth(torch.where(total > 0, depth, scene.depth)))


def _camera_step(problem: Problem, ray: Tensor, seen: Tensor, depth: Tensor, weight: Tensor) -> Tensor:
    """(images, 7): translation and rotation vector of each camera in its own axes, and change of log focal length; depths follow their rays.

    ray, seen (images, 3, n): rays and mean points in camera axes · depth, weight (images, n).
    """
    x, y, z = seen.unbind(1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    columns = [(-one, zero, zero), (zero, -one, zero), (zero, zero, -one), (zero, z, -y), (-z, zero, x), (y, -x, zero)]
    columns.append((depth * ray[:, 0], depth * ray[:, 1], zero))
    free = [*range(6 * (not problem.moves_cameras), 6), *[6] * problem.moves_focals]
    jacobian = torch.stack([torch.stack(columns[index], dim=1) for index in free], dim=1)
    along = (jacobian * (ray / length(ray)[:, None])[:, None]).sum(2)
    weighted = (jacobian * weight[:, None, None]).flatten(2)
    # What moves points along their rays is made up for by depths and does not count.
    normal = weighted @ jacobian.flatten(2).mT - (along * weight[:, None]) @ along.mT
    normal = normal + torch.diag_embed(_DAMPING * normal.diagonal(dim1=1, dim2=2) + torch.finfo(normal.dtype).tiny)
    residual = (seen - depth[:, None] * ray).flatten(1)[..., None]
    step = jacobian.new_zeros(len(ray), 7)
    step[:, free] = -torch.linalg.solve(normal, weighted @ residual)[..., 0]
    return step


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
