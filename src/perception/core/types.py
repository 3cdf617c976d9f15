"""What flows between the parts: a `Frame` goes into a pipeline's `step`, a frozen result comes out.

Conventions: OpenCV camera axes (x right, y down, z forward), metres, seconds inside (`time_ns` is the ROS stamp in
nanoseconds), pixel centres at integers with the origin top left, transforms named `a_from_b` as 4x4 float64 arrays.
Images, depth, poses and points are NumPy arrays; dense descriptors are torch tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.errors import InputError

DistortionModel = Literal["none", "plumb_bob", "rational_polynomial", "equidistant"]
_NUM_COEFFICIENTS = {"none": (0,), "plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a camera: size in pixels, focal lengths and principal point in pixels, lens distortion as in OpenCV."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: DistortionModel = "none"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise InputError(f"camera size {self.width}x{self.height}: must be positive")
        values = {"fx": self.fx, "fy": self.fy, "cx": self.cx, "cy": self.cy}
        for name, value in values.items():
            if not np.isfinite(value):
                raise InputError(f"camera {name} = {value}: must be finite")
        if self.fx <= 0 or self.fy <= 0:
            raise InputError(f"camera focal length fx = {self.fx}, fy = {self.fy}: must be positive (an uncalibrated camera publishes 0)")
        if self.distortion_model not in _NUM_COEFFICIENTS:
            raise InputError(f"distortion model {self.distortion_model!r}: must be one of {', '.join(_NUM_COEFFICIENTS)}")
        allowed = _NUM_COEFFICIENTS[self.distortion_model]
        if len(self.distortion) not in allowed:
            raise InputError(f"{len(self.distortion)} distortion coefficients: {self.distortion_model} takes {' or '.join(map(str, allowed))}")
        if not np.isfinite(self.distortion).all():
            raise InputError(f"distortion coefficients {self.distortion}: must be finite")

    @classmethod
    def from_matrix(cls, matrix: NDArray, width: int, height: int, **distortion: object) -> Camera:
        """From a 3x3 intrinsic matrix."""
        return cls(width, height, float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]), **distortion)  # type: ignore[arg-type]

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """The 3x3 intrinsic matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> Camera:
        """The same camera with its image scaled to another size (pixel centres at integers)."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=(self.cx + 0.5) * sx - 0.5, cy=(self.cy + 0.5) * sy - 0.5
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera image with what is known of it.

    image (height, width, 3) uint8 RGB · time_ns stamp of the image · camera or None while unknown · frame_id of the optical
    frame · source: name of the stream, so that two cameras can share one pipeline · depth_m (height, width) float32 metres
    along z, 0 or NaN where unknown · mask (height, width) bool, where to look (None: everywhere).
    """

    image: NDArray[np.uint8]
    time_ns: int
    camera: Camera | None = None
    frame_id: str = ""
    source: str = ""
    depth_m: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8 or 0 in self.image.shape:
            raise InputError(
                f"frame image has shape {self.image.shape} and type {self.image.dtype}: must be (height, width, 3) uint8 with positive size"
            )
        size = self.image.shape[:2]
        if self.camera is not None and (self.camera.height, self.camera.width) != size:
            raise InputError(
                f"image is {size[1]}x{size[0]} but its camera calibration is for {self.camera.width}x{self.camera.height}: sizes must be equal"
            )
        for name in ("depth_m", "mask"):
            array = getattr(self, name)
            if array is not None and array.shape != size:
                raise InputError(f"frame {name} has shape {array.shape}: must be {size} like the image")


@dataclass(frozen=True, eq=False)
class ReferenceView:
    """A frame of a known pose, from which an object is learnt.

    frame: with camera; depth_m where known; mask marks the object (None: everything is the object).
    camera_from_object (4, 4) · normals (height, width, 3) float32 in camera axes, where known (renders have them).
    """

    frame: Frame
    camera_from_object: NDArray[np.float64]
    normals: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Grid:
    """Where the cells of a dense map lie in the image: cell (row, col) is centred on pixel offset + stride * (col, row), as (x, y)."""

    offset_px: tuple[float, float]
    stride_px: tuple[float, float]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Dense descriptors of one image.

    descriptors (dim, rows, cols), L2-normalised over dim, float32 or bfloat16 · grid: where the cells lie, in pixels of the image that was
    given · image_size (height, width) of that image · extractor: name of what made them; only equal names can be matched.
    """

    descriptors: torch.Tensor
    grid: Grid
    image_size: tuple[int, int]
    extractor: str
    time_ns: int
    frame_id: str = ""

    @property
    def dim(self) -> int:
        return self.descriptors.shape[0]

    def on_cpu(self) -> FeatureMap:
        """The same map with its descriptors in main memory; itself when they are there already."""
        return self if self.descriptors.device.type == "cpu" else replace(self, descriptors=self.descriptors.cpu())


@dataclass(frozen=True, eq=False)
class TrackSet:
    """Where the tracked points are in one frame.

    ids (num,) int64 · points_px (num, 2) as (x, y) · visible (num,) bool · score (num,) cosine similarity to the query point.
    """

    ids: NDArray[np.int64]
    points_px: NDArray[np.float32]
    visible: NDArray[np.bool_]
    score: NDArray[np.float32]
    time_ns: int
    frame_id: str = ""


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """The pose of one object in one frame.

    camera_from_object (4, 4) · covariance (6, 6) of a small motion in the camera frame, order (x, y, z, rot x, rot y, rot z) in m and rad, as
    geometry_msgs/PoseWithCovariance · score in [0, 1] (see pipelines/one_shot_pose) · num_matches before and num_inliers after RANSAC ·
    reprojection_rms_px over the inliers · inlier_points_px (num_inliers, 2) and inlier_points_object (num_inliers, 3) ·
    bounds_object (2, 3) lower and upper corner of the object in its own frame, for overlays and detections.
    """

    object_name: str
    camera_from_object: NDArray[np.float64]
    covariance: NDArray[np.float64]
    score: float
    num_matches: int
    num_inliers: int
    reprojection_rms_px: float
    inlier_points_px: NDArray[np.float32]
    inlier_points_object: NDArray[np.float32]
    bounds_object: NDArray[np.float32]


@dataclass(frozen=True)
class NoPose:
    """Why no pose of an object is given for a frame."""

    object_name: str
    reason: str
    num_matches: int = 0
    num_inliers: int = 0
    score: float = 0.0


@dataclass(frozen=True, eq=False)
class PoseResult:
    """All that one frame said about the known objects. `features` is the map that was used, handed on by reference."""

    time_ns: int
    frame_id: str
    estimates: tuple[PoseEstimate, ...]
    misses: tuple[NoPose, ...] = ()
    features: FeatureMap | None = field(default=None, repr=False)
