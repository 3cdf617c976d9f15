"""A closer look at where an object is guessed to be: turned as in the nearest reference view and as large as there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera, Frame
from perception.geometry import se3
from perception.geometry.camera import project
from perception.geometry.pnp import PnpSolution
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.pose_search import FoundPose
from perception.pipelines.zoomed_view import ZoomedView, axis_towards, zoomed_view

_AROUND = 1.2
"""The picture spans so many times the object's box."""
_SIDE_STEP_PX = 64
_MAX_SIDE_PX = 384


def closer_look(database: ObjectDatabase, frame: Frame, camera_from_object: NDArray[np.float64]) -> ZoomedView | None:
    """The frame zoomed to a guessed pose. None when it lies behind the camera, outside of the picture, or too near to be seen as a whole."""
    assert frame.camera is not None
    assert database.templates is not None
    bounds = database.bounds.double().numpy()
    middle, extent = bounds.mean(axis=0), float(np.linalg.norm(bounds[1] - bounds[0]))
    centre = camera_from_object[:3, :3] @ middle + camera_from_object[:3, 3]
    distance = float(np.linalg.norm(centre))
    if centre[2] <= 0 or distance < 0.6 * extent:
        return None
    centre_px = np.asarray(project(centre[None], frame.camera))[0]
    if not ((centre_px >= 0) & (centre_px <= (frame.camera.width - 1, frame.camera.height - 1))).all():
        return None
    view, roll = nearest_upright(database, camera_from_object)
    there = database.camera_from_object[view].numpy()
    view_distance = float(np.linalg.norm(there[:3, :3] @ middle + there[:3, 3]))
    focal_px = float(database.templates.view_focal_px.median()) / view_distance * distance
    corners = np.stack(np.meshgrid(*bounds.T), axis=-1).reshape(-1, 3)
    straight = axis_towards(centre / distance)
    in_view = se3.transform_points(se3.from_rotation_translation(straight, np.zeros(3)) @ camera_from_object, corners)
    reach = float(np.linalg.norm(in_view[:, :2] / np.maximum(in_view[:, 2:], 1e-6), axis=1).max())
    focal_px *= min(1.0, _MAX_SIDE_PX / (2 * _AROUND * reach * focal_px))
    side = _SIDE_STEP_PX * max(2, int(np.ceil(2 * _AROUND * reach * focal_px / _SIDE_STEP_PX)))
    return zoomed_view(frame, centre_px, roll, focal_px, (side, side))


def nearest_upright(database: ObjectDatabase, camera_from_object: NDArray[np.float64]) -> tuple[int, float]:
    """The view that sees the object from the nearest direction, and by how much (rad) the picture must be turned to be like it."""
    middle = database.bounds.double().numpy().mean(axis=0)
    pose = _straight(camera_from_object, middle)
    views = np.stack([_straight(item, middle) for item in database.camera_from_object.numpy()])
    view = int(np.argmax(views[:, 2] @ pose[2]))
    turn = views[view] @ pose.T
    return view, float(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))


def is_like_its_views(
    database: ObjectDatabase, camera_from_object: NDArray[np.float64], camera: Camera, max_turn_rad: float, max_scale: float
) -> bool:
    """Whether dense descriptors of the frame itself can be compared with those of the nearest view."""
    if database.templates is None:
        return True
    view, roll = nearest_upright(database, camera_from_object)
    middle = database.bounds.double().numpy().mean(axis=0)
    poses = camera_from_object, database.camera_from_object[view].numpy()
    distance, there = (float(np.linalg.norm(pose[:3, :3] @ middle + pose[:3, 3])) for pose in poses)
    scale = float(camera.fx / distance / (float(database.templates.view_focal_px.median()) / there))
    return abs(roll) <= max_turn_rad and 1 / max_scale <= scale <= max_scale


def opposite_tilt(found: FoundPose) -> NDArray[np.float64]:
    """The other pose (4, 4) under which inliers that lie near a plane look almost the same (Schweighofer and Pinz, PAMI 2006): small or far
    objects of which one side is seen are tilted this way or that by little more than noise."""
    points, pose = found.points_object[found.solution.inliers], found.solution.camera_from_object
    middle = points.mean(axis=0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    sight = pose[:3, :3] @ middle + pose[:3, 3]
    mirror = np.eye(3) - 2 * np.outer(sight, sight) / max(float(sight @ sight), 1e-12)
    rotation = mirror @ pose[:3, :3] @ (np.eye(3) - 2 * np.outer(normal, normal))
    return se3.from_rotation_translation(rotation, sight - rotation @ middle)


def in_whole_frame(found: FoundPose, zoomed: ZoomedView) -> FoundPose:
    """A pose that was found in the zoomed view, its matches and its covariance, as of the frame itself."""
    assert zoomed.frame.camera is not None
    solution, turn = found.solution, np.zeros((6, 6))
    back = se3.inverse(zoomed.zoomed_from_camera)
    turn[:3, :3] = turn[3:, 3:] = back[:3, :3]
    moved = PnpSolution(
        back @ solution.camera_from_object,
        turn @ solution.covariance @ turn.T,
        solution.inliers,
        solution.reprojection_rms_px * zoomed.camera.fx / zoomed.frame.camera.fx,
        solution.num_iterations,
    )
    return replace(found, solution=moved, points_px=zoomed.points_px(found.points_px))


def _straight(camera_from_object: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (3, 3) of the object before a camera in the same place that looks straight at its middle."""
    centre = camera_from_object[:3, :3] @ middle + camera_from_object[:3, 3]
    return np.asarray(axis_towards(centre / max(float(np.linalg.norm(centre)), 1e-9)) @ camera_from_object[:3, :3], np.float64)
