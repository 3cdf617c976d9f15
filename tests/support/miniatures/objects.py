"""Judging the object poses of a sample against the scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tests.support.miniatures.scene import BOX_SIZE_M, MiniatureScene, reprojection_error_px

from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.camera import project
from perception_training.data.sample import ObjectTrack, Sample

BOUNDS = {"box": np.array([[-s / 2 for s in BOX_SIZE_M], [s / 2 for s in BOX_SIZE_M]]), "ball": np.array([[-0.15] * 3, [0.15] * 3])}
"""(2, 3) lower and upper corner of each object of the scene in its own frame."""


def corners(bounds: NDArray) -> NDArray[np.float64]:
    """(8, 3) corners of (2, 3) bounds."""
    return np.array([[bounds[i, 0], bounds[j, 1], bounds[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])


def true_corners_px(scene: MiniatureScene, name: str, frame: int, camera: Camera | None = None) -> NDArray[np.float64]:
    """(8, 2) where the corners of an object of the scene are seen."""
    points = se3.transform_points(scene.camera_from_object(name)[frame], corners(BOUNDS[name]))
    return project(points, camera or scene.cameras[frame])


def object_error_px(sample: Sample, scene: MiniatureScene, frames: tuple[int, ...], names: Mapping[str, str]) -> float:
    """Largest distance in pixels between where the sample's object poses, bounds and cameras put the corners and where they are.

    names: the object of the scene that each object of the sample is.
    """
    assert sample.cameras is not None
    worst = 0.0
    for item in sample.objects:
        for index, frame in enumerate(frames):
            camera = sample.cameras[index]
            assert camera is not None
            assert item.bounds is not None
            found = project(se3.transform_points(item.camera_from_object[index], corners(item.bounds)), camera)
            worst = max(worst, float(np.abs(found - true_corners_px(scene, names[item.name], frame)).max()))
    return worst


def reprojection_error_through_object_px(sample: Sample, scene: MiniatureScene, frames: tuple[int, ...], item: ObjectTrack) -> float:
    """`reprojection_error_px` with the poses that an object gives instead of the scene's: it stands still in the world."""
    return reprojection_error_px(replace(sample, world_from_camera=np.linalg.inv(item.camera_from_object)), scene, frames)
