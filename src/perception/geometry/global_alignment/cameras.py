"""What a caller already knows about the cameras, and cameras of single point maps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.focal import focal_of_point_map
from perception.geometry.global_alignment.observations import PairObservations
from perception.geometry.pnp import SolverConfig, solve_pnp

_USUAL_VIEW_DEG = 60.0
_FOCAL_RANGE = (0.5, 3.5)
"""Focal lengths are kept within these multiples of that of a usual view along the longer side."""
_NUM_TRIED_FOCALS = 21
_MAX_PNP_POINTS = 2000
_MAX_ERROR_SHARE = 5.0 / 512.0
"""Reprojection error of an inlier, as a share of the longer side; at least a pixel."""


@dataclass(frozen=True, eq=False)
class KnownCameras:
    """What is known of all cameras and stays as it is; None where it is to be found.

    world_from_camera (images, 4, 4), metres or any unit, which becomes the scene's · focal_px (images,) · principal_px (images, 2) as (x, y); None:
    the middle of each image, (width / 2, height / 2) as DUSt3R has it.
    """

    world_from_camera: Tensor | None = None
    focal_px: Tensor | None = None
    principal_px: Tensor | None = None

    def check(self, num_images: int) -> None:
        """InputError unless what is given is finite, complete and, for poses, rigid motions of cameras that are not all in one place."""
        for name, value, shape in (
            ("poses world_from_camera", self.world_from_camera, (num_images, 4, 4)),
            ("focal lengths focal_px", self.focal_px, (num_images,)),
            ("principal points principal_px", self.principal_px, (num_images, 2)),
        ):
            if value is not None and (tuple(value.shape) != shape or not bool(torch.isfinite(value).all())):
                raise InputError(f"preset {name}: must be {shape} finite numbers, for all images or for none (given: {tuple(value.shape)})")
        if self.focal_px is not None and not bool((self.focal_px > 0).all()):
            raise InputError(f"preset focal lengths {self.focal_px.tolist()}: must be positive pixels")
        if self.world_from_camera is not None:
            _check_poses(self.world_from_camera)

    def thinned(self, step: int) -> KnownCameras:
        """The same for images of which every `step`-th pixel is left."""
        scaled = (None if value is None else value / step for value in (self.focal_px, self.principal_px))
        return KnownCameras(self.world_from_camera, *scaled)

    def with_principal_points(self, observations: PairObservations) -> KnownCameras:
        """The same with every principal point filled in."""
        if self.principal_px is not None:
            return self
        sizes = torch.tensor(observations.sizes, dtype=torch.float64, device=observations.points.device)
        return replace(self, principal_px=sizes.flip(1) / 2)


def _check_poses(poses: Tensor) -> None:
    rotation = poses[:, :3, :3].double()
    eye = torch.eye(3, dtype=torch.float64, device=poses.device)
    is_rigid = ((rotation @ rotation.mT - eye).abs().amax((1, 2)) < 1e-3) & (torch.linalg.det(rotation) > 0)
    wrong = (~is_rigid).nonzero().flatten().tolist()
    if wrong:
        raise InputError(f"preset poses of images {wrong[:8]}: must be rigid motions world_from_camera (a rotation and a translation)")
    centres = poses[:, :3, 3]
    if float((centres - centres.mean(0)).norm(dim=1).max()) < 1e-9:
        raise InputError("preset poses: all cameras are in one place, which leaves the scene's scale open; at least two must be apart")


def focal_bounds(size: tuple[int, int]) -> tuple[float, float]:
    """Shortest and longest focal length in pixels that is believed for an image of (height, width)."""
    usual = max(size) / (2 * math.tan(math.radians(_USUAL_VIEW_DEG) / 2))
    return _FOCAL_RANGE[0] * usual, _FOCAL_RANGE[1] * usual


def focal_of_camera(points: Tensor, usable: Tensor, size: tuple[int, int], principal_px: Tensor) -> float | None:
    """Focal length of a point map (pixels, 3) in its own camera's axes, within `focal_bounds`; None where nothing is usable (pixels,)."""
    num = size[0] * size[1]
    focal = float(focal_of_point_map(points[:num].double().view(*size, 3), principal_px, usable[:num].view(size)))
    return None if math.isnan(focal) else min(max(focal, focal_bounds(size)[0]), focal_bounds(size)[1])


def camera_of_world_points(
    points: Tensor, usable: Tensor, size: tuple[int, int], principal_px: Tensor, focal_px: float | None
) -> tuple[Tensor, float] | None:
    """Pose world_from_camera (4, 4) and focal length that see the points (pixels, 3) in their pixels; None where no pose fits.

    Where the focal length is unknown, 21 between half and three times the longer side are tried, and the one with the smallest error is taken.
    """
    rows = usable[: size[0] * size[1]].nonzero().flatten()
    rows = rows[:: 1 + len(rows) // _MAX_PNP_POINTS]
    pixels = torch.stack([rows % size[1], rows // size[1]], dim=1).double().cpu().numpy()
    world = points[rows].double().cpu().numpy()
    cx, cy = principal_px.tolist()
    tried = [focal_px] if focal_px is not None else np.geomspace(max(size) / 2, 3 * max(size), _NUM_TRIED_FOCALS).tolist()
    solver = SolverConfig(max_error_px=max(1.0, _MAX_ERROR_SHARE * max(size)), max_iterations=200, min_iterations=10)
    best: tuple[float, float, np.ndarray] | None = None
    for focal in tried:
        found = solve_pnp(pixels, world, Camera(size[1], size[0], focal, focal, cx, cy), solver)
        if found is None:
            continue
        error = found.reprojection_rms_px / max(float(found.inliers.mean()), 1e-6)
        if best is None or error < best[0]:
            best = error, focal, found.camera_from_object
    if best is None:
        return None
    return torch.from_numpy(se3.inverse(best[2])).to(points.device), best[1]
