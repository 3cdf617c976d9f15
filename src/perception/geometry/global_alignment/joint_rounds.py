"""All cameras and pairs moved at once: a Gauss-Newton step whose depths are eliminated pixel by pixel.

Errors travel along a chain of images one pair for each round where cameras and pairs are improved in turns; here they are undone in one. The price is
a dense system of 7 unknowns for each image and each pair, so that this is for scenes of some hundred pairs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from perception.geometry import se3
from perception.geometry.global_alignment.problem import SMALLEST_DISTANCE, Fit, Problem, length, moved, reweighted, small_rotations
from perception.geometry.global_alignment.scene import Scene

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING, _DAMPING_FACTOR = 1e-3, 1e-9, 1.0, 10.0
_SOFTENING, _LEAST_SOFTNESS = 0.3, 0.01
_UNKNOWNS = 7  # of a camera: translation, rotation, log focal length; of a pair: translation, rotation, log scale


class JointRounds:
    """Damped as far as needed (Levenberg, Marquardt). Distances below a share of their mean weigh as this share, which shrinks with every round."""

    num_idle_to_end = 1

    def __init__(self, problem: Problem, softness: float) -> None:
        self._problem = problem
        self._damping = _FIRST_DAMPING
        self._softness = softness

    def improved(self, scene: Scene, fit: Fit) -> tuple[Scene, Fit] | None:
        """A better scene, or None where no damping leads to one."""
        found = self._round(scene, fit, self._softness)
        if found is None and self._softness > _LEAST_SOFTNESS:
            self._damping = _FIRST_DAMPING
            found = self._round(scene, fit, _LEAST_SOFTNESS)
        self._softness = max(_SOFTENING * self._softness, _LEAST_SOFTNESS)
        return found

    def _round(self, scene: Scene, fit: Fit, softness: float) -> tuple[Scene, Fit] | None:
        problem = self._problem
        smallest = max(softness * float(fit.distance.mean()), SMALLEST_DISTANCE * float(scene.depth.mean()))
        weights = reweighted(problem, fit, smallest)
        matrix, gradient = _free_system(problem, scene, fit, weights)
        while self._damping <= _MOST_DAMPING:
            step = _solution(matrix, gradient, self._damping)
            if step is not None:
                found = problem.unit_of(_moved_by(problem, scene, step, weights))
                better = problem.fit(found)
                if better.loss < fit.loss:
                    self._damping = max(self._damping / _DAMPING_FACTOR, _LEAST_DAMPING)
                    return found, better
            self._damping *= _DAMPING_FACTOR**2
        return None


def _solution(matrix: Tensor, gradient: Tensor, damping: float) -> Tensor | None:
    """The step (m,) to the minimum; None where `matrix` (m, m) is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(damping * matrix.diagonal() + torch.finfo(matrix.dtype).tiny))
    return None if int(failed) else -torch.cholesky_solve(gradient[:, None], factor)[:, 0]


def _free_system(problem: Problem, scene: Scene, fit: Fit, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Normal matrix (m, m) and gradient (m,) of the unknowns that may move, cameras first."""
    arms = problem.world_points(scene) - scene.world_from_camera[:, :3, 3:]
    along = arms / length(arms)[:, None]
    cameras = _camera_columns(scene, arms, problem.rays(scene) * scene.depth[:, None])
    pairs = fit.moved - scene.world_from_pair[:, :3, 3:]
    residual = (arms + scene.world_from_camera[:, :3, 3:])[problem.images] - fit.moved
    matrix, gradient = _system(problem, along, cameras, pairs, residual, weights)
    if problem.base_scale is not None:
        gradient.view(-1, _UNKNOWNS)[len(cameras) :, 6] -= (weights * fit.distance**2).sum() / problem.num_pairs
    if problem.moves_cameras:
        # Steps along these would be free, and are large enough to distort the scene, as turning is not linear.
        rigid = torch.linalg.qr(_rigid_changes(scene)).Q
        matrix += matrix.diagonal().mean() * rigid @ rigid.T
    free = _free_unknowns(problem)
    return matrix[free][:, free], gradient[free]


def _free_unknowns(problem: Problem) -> Tensor:
    """Indices of the unknowns that may move."""
    num_images = len(problem.pixels)
    is_free = torch.ones(num_images + problem.num_pairs, _UNKNOWNS, dtype=torch.bool, device=problem.pixels.device)
    is_free[:num_images, :6], is_free[:num_images, 6] = problem.moves_cameras, problem.moves_focals
    return is_free.flatten().nonzero().flatten()


def _camera_columns(scene: Scene, arms: Tensor, own: Tensor) -> Tensor:
    """(images, 7, 3, n): how world points `arms` (images, 3, n) from their camera's centre, `own` in its axes, move with its unknowns."""
    flat = torch.cat([own[:, :2], torch.zeros_like(own[:, 2:])], dim=1)
    return torch.cat([_rigid_columns(arms), -(scene.world_from_camera[:, :3, :3] @ flat)[:, None]], dim=1)


def _rigid_columns(arms: Tensor) -> Tensor:
    """(…, 6, 3, n): derivatives of points (…, 3, n) by a translation, and by a rotation about their origin."""
    columns = arms.new_zeros(*arms.shape[:-2], 6, 3, arms.shape[-1])
    columns[..., [0, 1, 2], [0, 1, 2], :] = 1
    columns[..., [3, 4, 5], [1, 2, 0], :] = -arms[..., [2, 0, 1], :]
    columns[..., [3, 4, 5], [2, 0, 1], :] = arms[..., [1, 2, 0], :]
    return columns


def _pair_table(like: Tensor) -> Tensor:
    """(3, 4, 7): applied to (1, x, y, z), a point from its pair's origin, the derivatives of its coordinates by the pair's unknowns."""
    table = like.new_zeros(3, 4, _UNKNOWNS)
    table[[0, 1, 2], 0, [0, 1, 2]] = 1
    table[:, 1:, 3:6] = _rigid_columns(torch.eye(3, dtype=like.dtype, device=like.device))[3:].permute(1, 2, 0)
    table[[0, 1, 2], [1, 2, 3], 6] = 1
    return table


def _system(problem: Problem, along: Tensor, cameras: Tensor, pairs: Tensor, residual: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Normal matrix (m, m) and gradient (m,) of all unknowns, cameras first: what moves points along their rays is made up for by depths.

    along (images, 3, n): unit vectors of the rays · cameras (images, 7, 3, n): columns of the cameras' unknowns · pairs (2, pairs, 3, n): points from
    their pair's origin · residual (2, pairs, 3, n): scene minus pair.
    """
    num_images, num_pairs = len(cameras), problem.num_pairs
    images, which = problem.images.flatten(), num_images + torch.arange(num_pairs, device=along.device).repeat(2)
    blocks = along.new_zeros(num_images + num_pairs, num_images + num_pairs, _UNKNOWNS, _UNKNOWNS)
    gradient = along.new_zeros(num_images + num_pairs, _UNKNOWNS)
    total = problem.totals(weights).clamp(min=torch.finfo(along.dtype).tiny)
    forces = residual * weights[..., None, :]
    pull = problem.totals(forces)
    across = cameras - along[:, None] * (cameras * along[:, None]).sum(2, keepdim=True)
    own = torch.arange(num_images, device=along.device)
    blocks[own, own] = (across * total[:, None, None]).flatten(2) @ across.flatten(2).mT
    gradient[:num_images] = (across * pull[:, None]).sum((2, 3))
    table = _pair_table(along)
    affine = torch.cat([torch.ones_like(pairs[..., :1, :]), pairs], dim=-2).flatten(0, 1)
    weighted = affine * weights.flatten(0, 1)[:, None]
    blocks.index_put_((which, which), torch.einsum("iaq,sab,ibr->sqr", table, weighted @ affine.mT, table), accumulate=True)
    gradient.index_add_(0, which, -torch.einsum("iaq,sia->sq", table, forces.flatten(0, 1) @ affine.mT))
    shares, slack = _shares(along[images], pairs.flatten(0, 1), weights.flatten(0, 1)), (pull * along).sum(1) / total
    mixed = along.new_empty(len(images), 3 * _UNKNOWNS, 4)
    for image in range(num_images):
        sides = (images == image).nonzero().flatten()
        flat, size = shares[sides].flatten(0, 1), (len(sides), _UNKNOWNS)
        mixed[sides] = (across[image].flatten(0, 1) @ weighted[sides].flatten(0, 1).T).unflatten(1, (-1, 4)).transpose(0, 1)
        # Pairs with each other, through the depths of the image that they share.
        blocks[which[sides, None], which[sides]] -= ((flat / total[image]) @ flat.T).view(*size, *size).transpose(1, 2)
        gradient[which[sides]] += (flat @ slack[image]).view(size)
    between = torch.einsum("sqia,iar->sqr", mixed.unflatten(1, (_UNKNOWNS, 3)), table)
    blocks[images, which], blocks[which, images] = -between, -between.mT
    num_unknowns = (num_images + num_pairs) * _UNKNOWNS
    return blocks.transpose(1, 2).reshape(num_unknowns, num_unknowns), gradient.flatten()


def _shares(along: Tensor, pairs: Tensor, weights: Tensor) -> Tensor:
    """(m, 7, n): how much pairs' unknowns move points (m, 3, n) along unit vectors (m, 3, n), times weights (m, n)."""
    moves = torch.cat([along, torch.linalg.cross(pairs, along, dim=1), (pairs * along).sum(1, keepdim=True)], dim=1)
    return moves * weights[:, None]


def _rigid_changes(scene: Scene) -> Tensor:
    """(m, 7): changes of all unknowns that move, turn or scale the whole scene, which its loss does not see."""
    origins = torch.cat([scene.world_from_camera[:, :3, 3], scene.world_from_pair[:, :3, 3]])
    columns = torch.cat([_rigid_columns(origins[..., None]), origins[:, None, :, None]], dim=1)[..., 0]
    changes = origins.new_zeros(len(origins), _UNKNOWNS, 7)
    changes[:, :3] = columns.mT
    changes[:, [3, 4, 5], [3, 4, 5]] = 1
    changes[len(scene.focal_px) :, 6, 6] = 1
    return changes.flatten(0, 1)


def _moved_by(problem: Problem, scene: Scene, step: Tensor, weights: Tensor) -> Scene:
    """The scene after changes `step` (m,) of the unknowns that may move, with depths that fit it best."""
    num_images = len(problem.pixels)
    whole = step.new_zeros(num_images + problem.num_pairs, _UNKNOWNS)
    whole.view(-1)[_free_unknowns(problem)] = step
    cameras, pairs = whole[:num_images], whole[num_images:]
    turned = small_rotations(cameras[:, 3:6]) @ scene.world_from_camera[:, :3, :3]
    linear = small_rotations(pairs[:, 3:6]) @ scene.world_from_pair[:, :3, :3] * pairs[:, 6].exp()[:, None, None]
    found = replace(
        scene,
        world_from_camera=se3.from_rotation_translation(turned, scene.world_from_camera[:, :3, 3] + cameras[:, :3]),
        focal_px=scene.focal_px * cameras[:, 6].exp(),
        world_from_pair=se3.from_rotation_translation(linear, scene.world_from_pair[:, :3, 3] + pairs[:, :3]),
    )
    return problem.with_depths(found, moved(found.world_from_pair, problem.points), weights)
