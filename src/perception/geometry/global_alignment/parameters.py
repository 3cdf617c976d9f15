"""A scene as unconstrained numbers, the way DUSt3R's own optimiser stores it: for gradient descent, and to compare with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.geometry import se3, so3
from perception.geometry.alignment import similarity_scale
from perception.geometry.global_alignment.scene import Scene

BASE_SCALE = 0.5
"""Geometric mean of the scales of all pairs."""
_FOCAL_SLOWNESS = 20.0
_ADAPTOR_SLOWNESS = 20.0


@dataclass(frozen=True, eq=False)
class SceneParameters:
    """pair_poses (pairs, 8): quaternion xyzw of any length, translation compressed by sign(t) log(1 + |t|), log scale · pair_adaptors (pairs, 2):
    stretch of x and y, and of z, usually 0 · log_depth (images, pixels) · camera_poses (images, 7) as the first 7 of pair_poses ·
    slow_log_focal (images,): 20 log f."""

    pair_poses: Tensor
    pair_adaptors: Tensor
    log_depth: Tensor
    camera_poses: Tensor
    slow_log_focal: Tensor


def adaptors(parameters: SceneParameters) -> Tensor:
    """(pairs, 3): factors of x, y and z whose product is 1."""
    stretch = parameters.pair_adaptors[:, [0, 0, 1]]
    return ((stretch - stretch.mean(1, keepdim=True)) / _ADAPTOR_SLOWNESS).exp()


def pair_similarities(parameters: SceneParameters, normalised: bool = True) -> Tensor:
    """(pairs, 4, 4): similarities whose scales have BASE_SCALE as geometric mean where `normalised`. The scale acts on the translation as well."""
    log_scale = parameters.pair_poses[:, 7]
    if normalised:
        log_scale = log_scale - log_scale.mean() + torch.tensor(BASE_SCALE).log()
    rigid = _rigid(parameters.pair_poses[:, :7])
    return torch.cat([rigid[:, :3] * log_scale.exp()[:, None, None], rigid[:, 3:]], dim=1)


def scene_of_parameters(parameters: SceneParameters, principal_px: Tensor, normalised: bool = True) -> Scene:
    """The scene, differentiable by all parameters. principal_px (images, 2). normalised: see `pair_similarities`; False for preset poses."""
    moved = pair_similarities(parameters, normalised)
    stretched = torch.cat([moved[..., :3] * adaptors(parameters)[:, None], moved[..., 3:]], dim=-1)
    focal = (parameters.slow_log_focal / _FOCAL_SLOWNESS).exp()
    return Scene(_rigid(parameters.camera_poses), focal, principal_px, parameters.log_depth.exp(), stretched)


def parameters_of_scene(scene: Scene) -> SceneParameters:
    """Parameters (no gradients attached) that give `scene` back; adaptors 0."""
    scale = similarity_scale(scene.world_from_pair)
    rigid = torch.cat([scene.world_from_pair[:, :3] / scale[:, None, None], scene.world_from_pair[:, 3:]], dim=1)
    pair_poses = torch.cat([_compressed(rigid), scale.log()[:, None]], dim=1)
    slow_log_focal = _FOCAL_SLOWNESS * scene.focal_px.log()
    return SceneParameters(pair_poses, pair_poses.new_zeros(len(scale), 2), scene.depth.log(), _compressed(scene.world_from_camera), slow_log_focal)


def _rigid(pose: Tensor) -> Tensor:
    """(n, 7) → (n, 4, 4)"""
    quaternion = pose[:, :4] / pose[:, :4].norm(dim=1, keepdim=True)
    return se3.from_rotation_translation(so3.from_quaternion_xyzw(quaternion), pose[:, 4:].sign() * pose[:, 4:].abs().expm1())


def _compressed(rigid: Tensor) -> Tensor:
    """(n, 4, 4) → (n, 7): inverse of `_rigid`."""
    translation = rigid[:, :3, 3]
    return torch.cat([so3.to_quaternion_xyzw(rigid[:, :3, :3]), translation.sign() * translation.abs().log1p()], dim=1)
