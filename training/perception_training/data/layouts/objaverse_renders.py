"""Files of renders in the layout of MEF (repository qq456cvb/3DCorrEnhance: `data_utils/blenderproc.py` and `dataset.py`, `data/obj_poses.npy`).

Of each object, in a folder such as `000-151/607e232d7f14478082cfb13695ed7bd2`: `color_NNNNNN.png` (RGB, black background), `mask_NNNNNN.png` (255 on
the object) and `depth_NNNNNN.png` (16-bit, along z, thousandths of the object's longest side, 0 on the background). `obj_poses.npy` holds for all
objects alike camera_from_object (views, 4, 4) in OpenCV's camera axes: the loader uses it as it stands to bring points from the camera back into
the object's frame, and z of every translation is +2. Published views have 512x512 pixels, focal length 560 and principal point 256; BlenderProc
puts pixel centres at integers, and so does the loader. `render.json` is ours: intrinsics of other sizes and the settings of the renderer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.io.images import read_depth_image, write_image
from perception_training.data.layouts.annotation_files import read_json
from perception_training.data.layouts.depth_images import check_size
from perception_training.data.sample import check_pose

POSES_FILE, SETTINGS_FILE = "obj_poses.npy", "render.json"
PUBLISHED_CAMERA = Camera(512, 512, 560.0, 560.0, 256.0, 256.0)
PARTIAL_SUFFIX = ".partial"
"""At the end of the names of folders that the renderer has not finished."""
DEPTH_UNITS = 1000.0
CLIPPED_DEPTH = 65535
"""Depths that do not fit are stored as this."""


@dataclass(frozen=True)
class ViewFiles:
    """The three files of one view."""

    color: Path
    mask: Path
    depth: Path


def view_files(folder: Path, index: int) -> ViewFiles:
    """Files of view `index` in an object's folder."""
    return ViewFiles(*(folder / f"{kind}_{index:06d}.png" for kind in ("color", "mask", "depth")))


def is_view_file(name: str) -> bool:
    """Whether a file of this name lies in an object's folder."""
    return name.endswith(".png") and name.startswith(("color_", "mask_", "depth_"))


def write_view(folder: Path, index: int, image: NDArray[np.uint8], mask: NDArray[np.bool_], depth: NDArray[np.float32]) -> None:
    """Write one view; `depth` in units of the object's longest side."""
    files = view_files(folder, index)
    write_image(files.color, image)
    write_image(files.mask, mask.astype(np.uint8) * np.uint8(255))
    write_image(files.depth, np.minimum(np.rint(depth * DEPTH_UNITS), CLIPPED_DEPTH).astype(np.uint16))


def read_depth(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """(height, width) float32 in units of the object's longest side, 0 on the background and where clipped. size: (width, height) it must have."""
    stored = read_depth_image(path)
    check_size(path, stored, size)
    return np.where(stored == CLIPPED_DEPTH, 0, stored).astype(np.float32) / np.float32(DEPTH_UNITS)


def write_poses(root: Path, camera_from_object: NDArray[np.float64]) -> None:
    """Write the poses (views, 4, 4) that all objects share."""
    np.save(root / POSES_FILE, camera_from_object)


def read_poses(path: Path) -> NDArray[np.float64]:
    """camera_from_object (views, 4, 4). Raises InputError that names the file when it is damaged or a pose is no rigid motion."""
    try:
        poses = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array of poses ({error})") from error
    if not isinstance(poses, np.ndarray) or poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise InputError(f"{path}: holds an array of shape {getattr(poses, 'shape', None)}: must be (views, 4, 4)")
    for index, pose in enumerate(poses):
        check_pose(pose, f"{path}[{index}]")
    return np.asarray(poses, np.float64)


def write_settings(root: Path, camera: Camera, settings: dict[str, Any]) -> None:
    """Write intrinsics and what the views were rendered with."""
    (root / SETTINGS_FILE).write_text(json.dumps({"camera": asdict(camera), "settings": settings}, indent=2) + "\n")


def read_settings(root: Path) -> tuple[Camera, dict[str, Any] | None]:
    """Intrinsics and settings of our own renders; the published intrinsics and None where there is no `render.json`."""
    path = root / SETTINGS_FILE
    if not path.exists():
        return PUBLISHED_CAMERA, None
    content = read_json(path)
    try:
        camera = dict(content["camera"])
        return Camera(**{**camera, "distortion": tuple(camera.get("distortion", ()))}), dict(content["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must hold `camera` and `settings` as `perception-train render` writes them ({error})") from error
