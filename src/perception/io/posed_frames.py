"""Folders of posed RGB-D frames in the layout of the 7-Scenes data set.

Files: `frame-NNNNNN.color.jpg` or `.png`, `frame-NNNNNN.depth.png` (16-bit mm, 0 and 65535 invalid; may be absent), `frame-NNNNNN.pose.txt`
(4x4 world_from_camera) and `camera-intrinsics.txt` (3x3, of the depth camera; the data set itself comes without).
`frame-NNNNNN.mask.png` (not black on the object) may be there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera, Frame
from perception.io import images
from perception.io.ros_images import depth_to_metres

SEVEN_SCENES_COLOUR_FOCAL_PX = 525.0
"""The Kinect's colour camera: the data set's authors give 585 px for depth only, and its colour images are not registered to depth."""

SEVEN_SCENES_DEPTH_CAMERA = Camera(640, 480, 585.0, 585.0, 320.0, 240.0)
"""The Kinect's depth camera as the data set's authors give it."""

INTRINSICS_FILE = "camera-intrinsics.txt"
_MAX_ROTATION_ERROR = 1e-2
_MAX_SLOPE = 0.01
"""Largest relative change of depth over half a pixel that still counts as one surface."""


@dataclass(frozen=True, eq=False)
class PosedFrame:
    """A frame with the colour camera and depth registered to its pixels (None without depth), and world_from_camera (4, 4)."""

    frame: Frame
    world_from_camera: NDArray[np.float64]
    name: str


class PosedFrameFolder:
    """The frames of a folder, read one by one in natural order; can be indexed.

    colour_focal_px 0 takes the default: 525 for 640x480 images with depth intrinsics 585/585 (the 7-Scenes cameras), else the intrinsics as
    they stand. period_ns is the time between stamps, as the layout has no times. Raises InputError for a folder without such frames.
    """

    def __init__(self, folder: str | Path, colour_focal_px: float = 0.0, period_ns: int = 33_333_333, frame_id: str = "camera") -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"folder of posed frames {self.folder}: no such folder")
        self.colour_paths = sorted((p for p in self.folder.glob("*.color.*") if p.suffix.lower() in images.IMAGE_SUFFIXES), key=images.natural_key)
        if not self.colour_paths:
            raise InputError(f"folder {self.folder} holds no frames of the form frame-000000.color.jpg (or .png)")
        height, width = images.read_image(self.colour_paths[0]).shape[:2]
        self.depth_camera = read_depth_camera(self.folder, width, height)
        self.camera = colour_camera(self.depth_camera, colour_focal_px)
        self._period_ns, self._frame_id = period_ns, frame_id

    def __len__(self) -> int:
        return len(self.colour_paths)

    def __iter__(self) -> Iterator[PosedFrame]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> PosedFrame:
        """Read one frame. Raises InputError that names the file when one is missing, damaged or of another size."""
        colour_path = self.colour_paths[index]
        name = colour_path.name[: colour_path.name.index(".color.")]
        image = images.read_image(colour_path)
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise InputError(f"{colour_path} is {image.shape[1]}x{image.shape[0]}: the first frame is {self.camera.width}x{self.camera.height}")
        world_from_camera = read_pose(self.folder / f"{name}.pose.txt")
        depth_path = self.folder / f"{name}.depth.png"
        depth_m = read_registered_depth(depth_path, self.depth_camera, self.camera) if depth_path.exists() else None
        mask_path = self.folder / f"{name}.mask.png"
        mask = images.read_image(mask_path).max(axis=2) > 0 if mask_path.exists() else None
        stamp = (index % len(self)) * self._period_ns + 1  # a stamp of zero means "no time" in ROS
        return PosedFrame(Frame(image, stamp, self.camera, self._frame_id, str(self.folder), depth_m, mask), world_from_camera, name)


def read_registered_depth(path: Path, depth_camera: Camera, camera: Camera) -> NDArray[np.float32]:
    """Depth (height, width) float32 in metres at the (colour) camera's pixels, of a 16-bit image in mm taken by the depth camera, 0 where unknown.

    Both cameras are taken to share their optical centre and axes; depth is interpolated on surfaces, not across edges. Raises InputError that
    names the file.
    """
    depth = images.read_depth_image(path)
    if depth.shape != (depth_camera.height, depth_camera.width):
        raise InputError(f"{path} is {depth.shape[1]}x{depth.shape[0]}: must be {depth_camera.width}x{depth_camera.height} like its camera")
    depth_m, lookup = depth_to_metres(depth), registration_lookup(camera, depth_camera)
    nearest = cv2.remap(depth_m, *lookup, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    between = cv2.remap(depth_m, *lookup, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    # across an edge, and beside an unknown pixel, a mean of neighbours is the depth of nothing
    excess = cv2.absdiff(between, nearest)
    cv2.scaleAdd(nearest, -_MAX_SLOPE, excess, excess)
    return np.asarray(cv2.copyTo(between, (excess < 0).view(np.uint8), nearest), np.float32)


@functools.lru_cache(maxsize=8)
def registration_lookup(colour: Camera, depth: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each colour pixel's ray meets the depth image: x and y maps (height, width) for cv2.remap.

    Both cameras share one optical centre here, so that the ray does not depend on the depth.
    """
    x = (np.arange(colour.width) - colour.cx) * (depth.fx / colour.fx) + depth.cx
    y = (np.arange(colour.height) - colour.cy) * (depth.fy / colour.fy) + depth.cy
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x.astype(np.float32), grid_y.astype(np.float32)


def colour_camera(depth: Camera, colour_focal_px: float = 0.0) -> Camera:
    """The colour camera beside a depth camera; colour_focal_px 0 takes the default as `PosedFrameFolder` does."""
    is_seven_scenes = (depth.width, depth.height, depth.fx, depth.fy) == (640, 480, 585.0, 585.0)
    if not colour_focal_px and not is_seven_scenes:
        return depth
    focal_px = colour_focal_px or SEVEN_SCENES_COLOUR_FOCAL_PX
    return Camera(depth.width, depth.height, focal_px, focal_px, depth.cx, depth.cy)


def _read_matrix(path: Path, size: int) -> NDArray[np.float64]:
    try:
        matrix = np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise InputError(f"{path}: missing; must hold a {size}x{size} matrix") from error
    except ValueError as error:
        raise InputError(f"{path}: not a matrix of numbers ({error})") from error
    if matrix.shape != (size, size) or not np.isfinite(matrix).all():
        raise InputError(
            f"{path}: must hold {size}x{size} finite numbers, holds shape {matrix.shape}{'' if np.isfinite(matrix).all() else ' with NaN'}"
        )
    return matrix


def read_depth_camera(folder: Path, width: int, height: int) -> Camera:
    """The depth camera of a folder with images of this size, from its intrinsics file. Raises InputError that names the file."""
    path = folder / INTRINSICS_FILE
    try:
        return Camera.from_matrix(_read_matrix(path, 3), width, height)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_pose(path: str | Path) -> NDArray[np.float64]:
    """(4, 4) rigid transform of a pose file. Its rotation is made exactly orthonormal; raises InputError when it is not nearly so."""
    matrix = _read_matrix(Path(path), 4)
    rotation = matrix[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > _MAX_ROTATION_ERROR or np.linalg.det(rotation) < 0 or not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        raise InputError(
            f"{path}: must be a rigid 4x4 transform; rotation times its transpose is off by {error:.3g}, determinant {np.linalg.det(rotation):.3g}"
        )
    left, _, right = np.linalg.svd(rotation)
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = left @ right, matrix[:3, 3]
    return rigid
