"""Writes the scene as a COLMAP reconstruction: text by colmap/colmap doc/format.rst, binary by scripts/python/read_write_model.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from tests.support.miniatures.scene import MiniatureScene

from perception.core.types import Camera
from perception.io.images import write_image

MODEL_IDS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
    "FOV": 7,
    "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9,
}
FIRST_POINT_ID, FIRST_IMAGE_ID, CAMERA_ID = 1000, 11, 7
NO_POINT = -1


def image_name(frame: int) -> str:
    """With a sub folder, and numbers that must be sorted as numbers."""
    return f"left/view{8 + frame}.png"


def parameters_of(camera: Camera, model: str) -> list[float]:
    """COLMAP's parameters; the principal point counts from the corner of the image."""
    cx, cy, lens = camera.cx + 0.5, camera.cy + 0.5, list(camera.distortion)
    if model.startswith(("SIMPLE", "RADIAL")):
        assert camera.fx == camera.fy
        num_lens = {"SIMPLE_PINHOLE": 0, "SIMPLE_RADIAL": 1, "RADIAL": 2, "SIMPLE_RADIAL_FISHEYE": 1, "RADIAL_FISHEYE": 2}[model]
        assert not any(lens[num_lens:])
        return [camera.fx, cx, cy, *lens[:num_lens]]
    return [camera.fx, camera.fy, cx, cy, *lens]


def keypoints_of(scene: MiniatureScene, frame: int) -> list[tuple[float, float, int]]:
    """(x, y, point id) of the visible points after one keypoint without a point."""
    points = [(float(x) + 0.5, float(y) + 0.5, FIRST_POINT_ID + i) for i, (x, y) in enumerate(scene.points_px[frame]) if scene.visible[frame, i]]
    return [(3.25, 4.75, NO_POINT), *points]


def write_colmap(
    folder: Path,
    scene: MiniatureScene,
    *,
    binary: bool = True,
    model: str = "PINHOLE",
    scale: int = 1,
    image_folder: str = "images",
    name_of: Callable[[int], str] = image_name,
    quaternion_length: float = 1.0,
) -> Path:
    """Write `sparse/0` and the images (shrunk by `scale`, the model stays at full size); returns the folder of the model.

    name_of: file names of the images by frame · quaternion_length: of the second image's pose, which is no rotation unless it is 1.
    """
    for frame in range(len(scene)):
        size = (scene.cameras[frame].width // scale, scene.cameras[frame].height // scale)
        write_image(folder / image_folder / name_of(frame), cv2.resize(scene.images[frame], size, interpolation=cv2.INTER_AREA))
    out = folder / "sparse" / "0"
    out.mkdir(parents=True, exist_ok=True)
    poses = [wxyz_and_translation(np.linalg.inv(pose)) for pose in scene.world_from_camera]
    poses[1][:4] = [quaternion_length * value for value in poses[1][:4]]
    (_write_binary if binary else _write_text)(out, scene, model, poses, list(map(name_of, range(len(scene)))))
    return out


def wxyz_and_translation(camera_from_world: NDArray) -> list[float]:
    x, y, z, w = Rotation.from_matrix(camera_from_world[:3, :3]).as_quat()
    return [float(v) for v in (w, x, y, z, *camera_from_world[:3, 3])]


def _observations(scene: MiniatureScene, point: int) -> list[tuple[int, int]]:
    """(image id, index of the keypoint) of a point."""
    found = []
    for frame in range(len(scene)):
        ids = [point_id for _, _, point_id in keypoints_of(scene, frame)]
        if FIRST_POINT_ID + point in ids:
            found.append((FIRST_IMAGE_ID + frame, ids.index(FIRST_POINT_ID + point)))
    return found


def _write_binary(out: Path, scene: MiniatureScene, model: str, poses: list[list[float]], names: list[str]) -> None:
    camera, parameters = scene.cameras[0], parameters_of(scene.cameras[0], model)
    header = struct.pack("<QiiQQ", 1, CAMERA_ID, MODEL_IDS[model], camera.width, camera.height)
    (out / "cameras.bin").write_bytes(header + struct.pack(f"<{len(parameters)}d", *parameters))
    data = struct.pack("<Q", len(scene))
    for frame in reversed(range(len(scene))):  # the order of ids means nothing
        keypoints = keypoints_of(scene, frame)
        data += struct.pack("<i7di", FIRST_IMAGE_ID + frame, *poses[frame], CAMERA_ID) + names[frame].encode() + b"\0"
        data += struct.pack("<Q", len(keypoints)) + b"".join(struct.pack("<ddq", *keypoint) for keypoint in keypoints)
    (out / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(scene.points_world))
    for i, point in enumerate(scene.points_world):
        seen = _observations(scene, i)
        data += struct.pack("<Q3d3BdQ", FIRST_POINT_ID + i, *point, 200, 100, 50, 0.7, len(seen)) + b"".join(
            struct.pack("<ii", *pair) for pair in seen
        )
    (out / "points3D.bin").write_bytes(data)


def _write_text(out: Path, scene: MiniatureScene, model: str, poses: list[list[float]], names: list[str]) -> None:
    camera, parameters = scene.cameras[0], " ".join(map(repr, parameters_of(scene.cameras[0], model)))
    (out / "cameras.txt").write_text(f"# Camera list\n# Number of cameras: 1\n{CAMERA_ID} {model} {camera.width} {camera.height} {parameters}\n")
    lines = ["# Image list with two lines of data per image:"]
    for frame in range(len(scene)):
        lines.append(f"{FIRST_IMAGE_ID + frame} {' '.join(map(repr, poses[frame]))} {CAMERA_ID} {names[frame]}")
        lines.append(" ".join(f"{x!r} {y!r} {point_id}" for x, y, point_id in keypoints_of(scene, frame)))
    (out / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# 3D point list"]
    for i, point in enumerate(scene.points_world):
        track = " ".join(f"{image_id} {index}" for image_id, index in _observations(scene, i))
        lines.append(f"{FIRST_POINT_ID + i} {' '.join(repr(float(v)) for v in point)} 200 100 50 0.7 {track}")
    (out / "points3D.txt").write_text("\n".join(lines) + "\n")
