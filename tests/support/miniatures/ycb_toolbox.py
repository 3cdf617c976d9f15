"""Writes the scene as YCB-Video's authors publish it, by yuxng/YCB_Video_toolbox README.md and show_pose_annotations.m."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import scipy.io
from tests.support.miniatures.scene import MiniatureScene

CLASSES = {"box": ("003_cracker_box", 2), "ball": ("061_foam_brick", 21)}
"""Class name and index of each object of the scene."""

FACTOR_DEPTH = 10000


def write_ycb_toolbox(
    root: Path,
    scene: MiniatureScene,
    video: str = "0048",
    *,
    suffix: str = ".png",
    rotation_scale: float = 1.0,
    without_ball_in: tuple[int, ...] = (),
) -> Path:
    """Write one video with keyframes 000002 and 000004, and an empty folder for each model's mesh file; returns its folder.

    rotation_scale: of the second frame's first pose.
    """
    folder = root / "data" / video
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(len(scene)):
        stem = folder / f"{frame + 1:06d}"
        names = ["ball", "box"] if frame not in without_ball_in else ["box"]
        cv2.imwrite(f"{stem}-color{suffix}", scene.images[frame][..., ::-1])
        cv2.imwrite(f"{stem}-depth.png", np.round(scene.depth_m[frame] * FACTOR_DEPTH).astype(np.uint16))
        label = np.zeros_like(scene.masks[frame], np.uint8)
        for name in names:
            label[scene.masks[frame] == {"box": 1, "ball": 2}[name]] = CLASSES[name][1]
        cv2.imwrite(f"{stem}-label.png", label)
        poses = np.stack([scene.camera_from_object(name)[frame][:3] for name in names], axis=-1)
        poses[:, :3, 0] *= rotation_scale if frame == 1 else 1.0
        camera = scene.cameras[frame]
        meta = {
            "center": np.zeros((len(names), 2)),
            "cls_indexes": np.array([[CLASSES[name][1]] for name in names], np.uint8),
            "factor_depth": np.array([[FACTOR_DEPTH]], np.uint16),
            "intrinsic_matrix": np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]),
            "poses": poses[..., 0] if len(names) == 1 else poses,
            "rotation_translation_matrix": np.linalg.inv(scene.world_from_camera[frame])[:3],
        }
        scipy.io.savemat(f"{stem}-meta.mat", meta, do_compression=True)
    for name, _ in CLASSES.values():
        mesh = root / "models" / name / "textured.obj"
        mesh.parent.mkdir(parents=True, exist_ok=True)
        mesh.write_text("v 0 0 0\n")
    (root / "image_sets").mkdir(exist_ok=True)
    (root / "image_sets" / "keyframe.txt").write_text(f"{video}/000002\n{video}/000004\n")
    return folder
