"""Writes the scene in the layout of DL3DV-10K, after nerfstudio's "Data conventions"."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from tests.support.miniatures.scene import MiniatureScene, miniature_scene, seen_by

from perception.core.types import Camera
from perception.io.images import write_image

FULL_SIZE = (3840, 2160)
CAMERA = Camera(240, 135, 210.0, 212.0, 118.0, 66.5, "plumb_bob", (-0.05, 0.02, 0.003, -0.002))
"""Of the images as they are written; the file states it for the full size, 16 times as large."""


@cache
def dl3dv_scene() -> MiniatureScene:
    return seen_by(miniature_scene(4), CAMERA)


def write_dl3dv(folder: Path, *, image_folder: str = "images_4", pose_stretch: float = 1.0) -> Path:
    """transforms.json and images of one scene; the path of the file. pose_stretch: of the second frame's rotation, no rotation unless 1.

    The world is turned by an applied_transform like nerfstudio's, which must not matter.
    """
    scene, factor = dl3dv_scene(), FULL_SIZE[0] / CAMERA.width
    applied = np.array([[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    frames = []
    for i, pose in enumerate(scene.world_from_camera):
        opengl = applied @ pose
        opengl[:3, 1] *= -1  # the camera's y is up
        opengl[:3, 2] *= -1  # and it looks along minus z
        if i == 1:
            opengl[:3, :3] *= pose_stretch
        name = f"frame_{i + 1:05d}.png"
        frames.append({"file_path": f"images/{name}", "transform_matrix": opengl.tolist(), "colmap_im_id": 5 - i})
        write_image(folder / image_folder / name, cv2.resize(scene.images[i], (CAMERA.width, CAMERA.height)))
    k1, k2, p1, p2 = CAMERA.distortion
    content = {
        "w": FULL_SIZE[0],
        "h": FULL_SIZE[1],
        "fl_x": factor * CAMERA.fx,
        "fl_y": factor * CAMERA.fy,
        "cx": factor * (CAMERA.cx + 0.5),
        "cy": factor * (CAMERA.cy + 0.5),
        **{"k1": k1, "k2": k2, "p1": p1, "p2": p2, "camera_model": "OPENCV"},
        "frames": frames[::-1],
        "applied_transform": applied[:3].tolist(),
    }
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder / "transforms.json"
