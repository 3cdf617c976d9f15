"""Analytic scenes: geometry whose exact answer is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera
from perception.geometry import camera as camera_geometry
from perception.geometry import se3, so3

CAMERAS = {
    "none": Camera(640, 480, 600.0, 605.0, 322.0, 238.0),
    "plumb_bob": Camera(640, 480, 500.0, 505.0, 320.0, 240.0, "plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0.02)),
    "rational_polynomial": Camera(640, 480, 500.0, 505.0, 320.0, 240.0, "rational_polynomial", (0.1, -0.05, 0.001, 0.0005, 0.01, 0.2, -0.02, 0.002)),
    "equidistant": Camera(640, 480, 300.0, 302.0, 320.0, 240.0, "equidistant", (0.02, -0.01, 0.003, -0.0005)),
}


@dataclass(frozen=True)
class Correspondences:
    """Matches of a known pose: points_px (n, 2), points_object (n, 3), is_inlier (n,), camera_from_object (4, 4)."""

    points_px: NDArray[np.float64]
    points_object: NDArray[np.float64]
    is_inlier: NDArray[np.bool_]
    camera_from_object: NDArray[np.float64]


def correspondences(camera: Camera, num: int, inlier_share: float, noise_px: float, seed: int) -> Correspondences:
    """An object of 20 cm at about 0.6 m in a random pose; outliers lie anywhere in the image."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    rotation = axis / np.linalg.norm(axis) * rng.uniform(0, np.pi)
    pose = se3.exp(np.concatenate([np.zeros(3), rotation]))
    pose[:3, 3] = rng.uniform([-0.05, -0.05, 0.5], [0.05, 0.05, 0.7])
    points = rng.uniform(-0.1, 0.1, (num, 3))
    pixels = camera_geometry.project(se3.transform_points(pose, points), camera) + rng.normal(scale=noise_px, size=(num, 2))
    is_inlier = np.arange(num) < round(inlier_share * num)
    pixels[~is_inlier] = rng.uniform(0, (camera.width, camera.height), (num, 2))[~is_inlier]
    order = rng.permutation(num)
    return Correspondences(pixels[order], points[order], is_inlier[order], pose)


def pose_error(estimate: NDArray, truth: NDArray) -> tuple[float, float]:
    """Rotation error in degrees and translation error in metres."""
    angle = so3.rotation_angle(estimate[:3, :3] @ truth[:3, :3].T)
    return float(np.rad2deg(angle)), float(np.linalg.norm(estimate[:3, 3] - truth[:3, 3]))


def unit_descriptors(num: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Random descriptors of unit length."""
    values = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
