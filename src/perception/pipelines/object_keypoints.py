"""SIFT keypoints on an object's surface: what `keypoint_search` looks for in a frame.

They are few and know their own size and direction, so one that is found again says by itself where the object is. That finds printed objects at any
roll and size for less than the templates of `view_templates` cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from perception.core.errors import InputError
from perception.core.types import Camera, ReferenceView
from perception.geometry import se3
from perception.geometry.camera import lift_points, project, unproject
from perception.ops.sift_keypoints import Keypoints, detect_keypoints
from perception.pipelines.zoomed_view import axis_towards, turned_about_axis


@dataclass(frozen=True, eq=False)
class ObjectKeypoints:
    """descriptors (num, 128) float16 of unit length · points (num, 3) float32 in the object frame · sizes_m (num,) float32: diameters on the object ·
    upright_from_object (num, 3, 3) float32: turns the object as a camera sees it that looks straight at the keypoint and has its direction along
    the x axis."""

    descriptors: torch.Tensor
    points: torch.Tensor
    sizes_m: torch.Tensor
    upright_from_object: torch.Tensor

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, eq=False)
class ViewKeypoints:
    """The keypoints of one reference view, before their places on the surface are known."""

    seen: Keypoints
    camera: Camera
    camera_from_object: NDArray[np.float64]

    def at_depths(self, depth_m: NDArray[np.float64]) -> ObjectKeypoints:
        """Those whose depth is known, from the depth (num,) of each along the optical axis; NaN where it is not."""
        known = np.isfinite(depth_m)
        seen, depth_m = self.seen.take(known), depth_m[known]
        at = np.asarray(unproject(seen.points_px, depth_m, self.camera)).reshape(-1, 3)
        rays = at / np.linalg.norm(at, axis=1, keepdims=True)
        upright = turned_about_axis(-seen.angles_rad) @ axis_towards(rays) @ self.camera_from_object[:3, :3]
        return ObjectKeypoints(
            seen.descriptors.half(),
            torch.from_numpy(se3.transform_points(se3.inverse(self.camera_from_object), at).astype(np.float32)),
            torch.from_numpy((seen.sizes_px * depth_m / self.camera.fx).astype(np.float32)),
            torch.from_numpy(upright.astype(np.float32)),
        )

    def on_depth_image(self, depth_image_m: NDArray) -> ObjectKeypoints:
        """As deep as the pixel of a depth image (height, width) that they lie on."""
        return self.at_depths(lift_points(self.seen.points_px, depth_image_m, self.camera)[:, 2])

    def on_surface(self, points: NDArray, reach_px: float) -> ObjectKeypoints:
        """As deep as the nearest of the view's surface points (num, 3), where one is seen within `reach_px`."""
        depth_m = np.full(len(self.seen), np.nan)
        if len(points) and len(self.seen):
            in_camera = se3.transform_points(self.camera_from_object, np.asarray(points, np.float64))
            distance, nearest = KDTree(np.asarray(project(in_camera, self.camera))).query(self.seen.points_px)
            depth_m = np.where(distance <= reach_px, in_camera[nearest, 2], np.nan)
        return self.at_depths(depth_m)


def keypoints_of(view: ReferenceView, max_keypoints: int) -> ViewKeypoints:
    """Of a reference view, those on its mask with most contrast. Raises InputError without a camera."""
    frame = view.frame
    if frame.camera is None:
        raise InputError(f"reference view at {frame.time_ns} ns: no camera intrinsics")
    return ViewKeypoints(detect_keypoints(frame.image, frame.mask, max_keypoints), frame.camera, view.camera_from_object)


def joined(parts: Sequence[ObjectKeypoints]) -> ObjectKeypoints | None:
    """Those of several views as one; None of none."""
    if not sum(map(len, parts)):
        return None
    return ObjectKeypoints(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(ObjectKeypoints)))
