"""The one typed sample that every reader and renderer returns: some frames of one sequence with all that is known of them.

Conventions as in `perception.core.types`: OpenCV camera axes, pixel centres at integers, `world_from_camera` 4x4 float64, depth along z.
A field is None where the data set has no such thing at all. Inside a field that is there, unknown values are: depth 0, pose all NaN, mask 0,
track point NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.camera import depth_to_points

MAX_ROTATION_ERROR = 1e-3
"""Largest entry of R R^T - I that still counts as a rotation."""

Unit = Literal["metre", "arbitrary"]


@dataclass(frozen=True, eq=False)
class Tracks:
    """N points followed through the T frames of a sample; the annotated correspondences of a pair of images are tracks through two frames.

    points_px (T, N, 2) float32 as (x, y), NaN where unknown; may lie outside the image · visible (T, N) bool · points_world (T, N, 3)
    float32 in the sample's unit, where known · query_frames (N,) int64: the frame in which a point was picked, where the set names one ·
    names (N,): what a point is, such as a keypoint's name; empty where points have no names.
    """

    points_px: NDArray[np.float32]
    visible: NDArray[np.bool_]
    points_world: NDArray[np.float32] | None = None
    query_frames: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.points_px.shape
        if len(shape) != 3 or shape[2] != 2:
            raise InputError(f"track points have shape {shape}: must be (frames, points, 2)")
        if self.visible.shape != shape[:2] or self.visible.dtype != np.bool_:
            raise InputError(f"track visibility has shape {self.visible.shape} and type {self.visible.dtype}: must be {shape[:2]} bool")
        if self.points_world is not None and self.points_world.shape != (*shape[:2], 3):
            raise InputError(f"track points in the world have shape {self.points_world.shape}: must be {(*shape[:2], 3)}")
        if self.query_frames is not None and self.query_frames.shape != (shape[1],):
            raise InputError(f"track query frames have shape {self.query_frames.shape}: must be {(shape[1],)}")
        if self.names and len(self.names) != shape[1]:
            raise InputError(f"{len(self.names)} track names for {shape[1]} points")

    @property
    def num_points(self) -> int:
        return self.points_px.shape[1]

    def at_frames(self, frames: Sequence[int]) -> Tracks:
        """The same points in these frames only. A query frame that is not among them becomes -1."""
        rows = list(frames)
        queries = None
        if self.query_frames is not None:
            place = {frame: row for row, frame in reversed(list(enumerate(rows)))}
            queries = np.array([place.get(int(frame), -1) for frame in self.query_frames], np.int64)
        world = None if self.points_world is None else self.points_world[rows]
        return Tracks(self.points_px[rows], self.visible[rows], world, queries, self.names)

    def of_points(self, points: Sequence[int] | NDArray[np.int64]) -> Tracks:
        """Only these of the points, in this order."""
        chosen = np.asarray(points, np.int64)
        world = None if self.points_world is None else self.points_world[:, chosen]
        queries = None if self.query_frames is None else self.query_frames[chosen]
        names = tuple(self.names[point] for point in chosen) if self.names else ()
        return Tracks(self.points_px[:, chosen], self.visible[:, chosen], world, queries, names)


@dataclass(frozen=True, eq=False)
class ObjectTrack:
    """One annotated object through the T frames of a sample.

    camera_from_object (T, 4, 4), all NaN in frames without it or without its pose · mask_id: its value in the sample's masks (0: none) ·
    bounds (2, 3) lower and upper corner in the object's frame · mesh: its model on disk, of which one unit is mesh_unit_m metres ·
    visible_share (T,): visible part of its silhouette in [0, 1], where annotated · boxes_px (T, 4) as (x, y) of the lowest and of the highest
    corner, where annotated; NaN in frames without a box.
    """

    name: str
    camera_from_object: NDArray[np.float64]
    mask_id: int = 0
    bounds: NDArray[np.float64] | None = None
    mesh: Path | None = None
    visible_share: NDArray[np.float64] | None = None
    boxes_px: NDArray[np.float64] | None = None
    mesh_unit_m: float = 1.0

    def __post_init__(self) -> None:
        if self.boxes_px is not None and self.boxes_px.shape != (len(self.camera_from_object), 4):
            raise InputError(f"boxes of {self.name} have shape {self.boxes_px.shape}: must be {(len(self.camera_from_object), 4)}")

    def at_frames(self, frames: Sequence[int]) -> ObjectTrack:
        """The same object in these frames only."""
        rows = list(frames)
        return replace(
            self,
            camera_from_object=self.camera_from_object[rows],
            visible_share=None if self.visible_share is None else self.visible_share[rows],
            boxes_px=None if self.boxes_px is None else self.boxes_px[rows],
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """T frames of one sequence, in the order in which they were asked for.

    dataset, sequence, frame_names: where they come from · images: T arrays (height, width, 3) uint8 RGB; sizes may differ · times_s (T,) ·
    cameras: T, None for a frame without intrinsics · world_from_camera (T, 4, 4), NaN for a frame without a pose ·
    depth_m: T arrays (height, width) float32 along z in `unit`, 0 where unknown · masks: T arrays (height, width) int32, 0 background, else the
    id of an instance · normals: T arrays (height, width, 3) float32 in camera axes, 0 where unknown · dynamic: T arrays (height, width) bool,
    where the surface moves in the world · tracks · objects · text: caption, category or instruction · unit: of depth, translations and points ·
    mask_known (T,) bool: which frames' masks are annotated, where only some are; None: all · attributes: what the set says of the whole sequence
    and has no field here, such as the difficulty of a pair.
    Raises InputError that names data set, sequence and frame when the fields do not fit together or a pose is no rigid motion.
    """

    dataset: str
    sequence: str
    frame_names: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]
    times_s: NDArray[np.float64] | None = None
    cameras: tuple[Camera | None, ...] | None = None
    world_from_camera: NDArray[np.float64] | None = None
    depth_m: tuple[NDArray[np.float32], ...] | None = None
    masks: tuple[NDArray[np.int32], ...] | None = None
    normals: tuple[NDArray[np.float32], ...] | None = None
    dynamic: tuple[NDArray[np.bool_], ...] | None = None
    tracks: Tracks | None = None
    objects: tuple[ObjectTrack, ...] = field(default=())
    text: str | None = None
    unit: Unit = "metre"
    mask_known: NDArray[np.bool_] | None = None
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_frames = len(self.images)
        if not num_frames:
            raise InputError(f"{self.place()}: no frames; must be at least one")
        counts = {"frame_names": len(self.frame_names)}
        for name in ("times_s", "cameras", "world_from_camera", "depth_m", "masks", "normals", "dynamic", "mask_known"):
            if getattr(self, name) is not None:
                counts[name] = len(getattr(self, name))
        if self.tracks is not None:
            counts["tracks"] = len(self.tracks.points_px)
        counts |= {f"object {item.name}": len(item.camera_from_object) for item in self.objects}
        for name, count in counts.items():
            if count != num_frames:
                raise InputError(f"{self.place()}: {count} {name} for {num_frames} images; must be as many")
        for frame in range(num_frames):
            self._check_frame(frame)

    def _check_frame(self, frame: int) -> None:
        image = self.images[frame]
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(f"{self.place(frame)}: image has shape {image.shape} and type {image.dtype}: must be (height, width, 3) uint8")
        size = image.shape[:2]
        camera = self.cameras[frame] if self.cameras is not None else None
        if camera is not None and (camera.height, camera.width) != size:
            raise InputError(
                f"{self.place(frame)}: image is {size[1]}x{size[0]} but its intrinsics are for {camera.width}x{camera.height}: sizes must be equal"
            )
        for name in ("depth_m", "masks", "normals", "dynamic"):
            maps = getattr(self, name)
            if maps is not None and maps[frame].shape[:2] != size:
                raise InputError(f"{self.place(frame)}: {name} is {maps[frame].shape[1]}x{maps[frame].shape[0]}: must be {size[1]}x{size[0]}")
        if self.depth_m is not None and not np.isfinite(self.depth_m[frame]).all():
            raise InputError(f"{self.place(frame)}: depth holds NaN or infinite values: unknown depth must be 0")
        if self.world_from_camera is not None:
            check_pose(self.world_from_camera[frame], self.place(frame))

    def place(self, frame: int | None = None) -> str:
        """data set/sequence[/frame], for messages."""
        return f"{self.dataset}/{self.sequence}" + ("" if frame is None else f"/{self.frame_names[frame]}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_pose(self) -> NDArray[np.bool_]:
        """(T,) which frames have a pose."""
        if self.world_from_camera is None:
            return np.zeros(len(self), np.bool_)
        return np.asarray(np.isfinite(self.world_from_camera).all(axis=(1, 2)), np.bool_)

    def points_world(self, frame: int) -> NDArray[np.float32]:
        """Point map (height, width, 3) of a frame in the world; NaN where the depth is unknown. On renders of one mesh: object coordinates."""
        camera = self.cameras[frame] if self.cameras is not None else None
        if self.depth_m is None or camera is None or self.world_from_camera is None:
            raise InputError(f"{self.place(frame)}: points need depth, intrinsics and pose; this sample lacks some of them")
        return se3.transform_points(self.world_from_camera[frame].astype(np.float32), depth_to_points(self.depth_m[frame], camera))


def check_pose(matrix: NDArray, place: str) -> None:
    """Raise InputError that names `place` unless the (4, 4) matrix is a rigid motion, or all NaN (unknown)."""
    if matrix.shape == (4, 4) and np.isnan(matrix).all():
        return
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError(
            f"{place}: pose has shape {matrix.shape}{' with NaN or infinite numbers' * (matrix.shape == (4, 4))}: must be a rigid 4x4 transform"
        )
    rotation = matrix[:3, :3]
    error, determinant = float(np.abs(rotation @ rotation.T - np.eye(3)).max()), float(np.linalg.det(rotation))
    if error > MAX_ROTATION_ERROR or determinant < 0 or not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6):
        raise InputError(
            f"{place}: pose is no rigid motion: R R^T is off identity by {error:.3g}, determinant {determinant:.3g}, last row {matrix[3].tolist()}"
        )
