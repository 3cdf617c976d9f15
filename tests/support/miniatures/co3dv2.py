"""Writes the scene in the layout of CO3Dv2 (facebookresearch/co3d README.md and co3d/dataset/data_types.py, conventions of PyTorch3D)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.miniatures.scene import MiniatureScene

from perception.core.types import Camera
from perception.io.images import write_image

SEQUENCE = "110_13051_23361"
SCALE = 2.5
"""What the stored depth is multiplied by."""


def viewpoint_of(camera: Camera, world_from_camera: np.ndarray, kind: str) -> dict[str, Any]:
    """PyTorch3D: rows times R plus T gives points with x to the left and y up; NDC grows to the left and up from the image's middle."""
    flip = np.diag([-1.0, -1.0, 1.0])
    camera_from_world = np.linalg.inv(world_from_camera)
    half_width, half_height = camera.width / 2, camera.height / 2
    shorter = min(half_width, half_height)
    unit_x, unit_y = (shorter, shorter) if kind == "ndc_isotropic" else (half_width, half_height)
    return {
        "R": (flip @ camera_from_world[:3, :3]).T.tolist(),
        "T": (flip @ camera_from_world[:3, 3]).tolist(),
        "focal_length": [camera.fx / unit_x, camera.fy / unit_y],
        "principal_point": [(half_width - (camera.cx + 0.5)) / unit_x, (half_height - (camera.cy + 0.5)) / unit_y],
        "intrinsics_format": kind,
    }


def write_co3dv2(root: Path, scene: MiniatureScene, *, category: str = "apple", kind: str = "ndc_isotropic", pose_stretch: float = 1.0) -> Path:
    """One sequence of a category with a set list; returns the folder of the category. pose_stretch: of the second frame's R, no rotation unless 1."""
    folder = root / category
    frames = []
    for i in range(len(scene)):
        base, stem = f"{category}/{SEQUENCE}", f"frame{i + 1:06d}"
        write_image(root / base / "images" / f"{stem}.jpg", scene.images[i])
        write_image(root / base / "masks" / f"{stem}.png", np.where(scene.masks[i] > 0, 240, 30).astype(np.uint8))
        stored = (scene.depth_m[i] / SCALE).astype(np.float16)
        stored[:4, :4], stored[:4, 4:8] = np.inf, np.nan
        write_image(root / base / "depths" / f"{stem}.jpg.geometric.png", stored.view(np.uint16))
        valid = np.full(stored.shape, 255, np.uint8)
        valid[-6:, -6:] = 0
        write_image(root / base / "depth_masks" / f"{stem}.png", valid)
        viewpoint = viewpoint_of(scene.cameras[i], scene.world_from_camera[i], kind)
        if i == 1:
            viewpoint["R"][0] = [pose_stretch * value for value in viewpoint["R"][0]]
        frames.append(
            {
                "sequence_name": SEQUENCE,
                "frame_number": 10 * i,
                "frame_timestamp": 0.25 * i,
                "image": {"path": f"{base}/images/{stem}.jpg", "size": list(scene.images[i].shape[:2])},
                "depth": {
                    "path": f"{base}/depths/{stem}.jpg.geometric.png",
                    "scale_adjustment": SCALE,
                    "mask_path": f"{base}/depth_masks/{stem}.png",
                },
                "mask": {"path": f"{base}/masks/{stem}.png", "mass": 1.0},
                "viewpoint": viewpoint,
                "meta": None,
            }
        )
    write_annotations(folder, frames)
    listed = [[SEQUENCE, frame["frame_number"], frame["image"]["path"]] for frame in frames]
    (folder / "set_lists").mkdir(exist_ok=True)
    (folder / "set_lists" / "set_lists_fewview_dev.json").write_text(json.dumps({"train": listed[:2], "val": listed[2:3], "test": listed[3:]}))
    return folder


def write_annotations(folder: Path, frames: list[dict[str, Any]]) -> None:
    """Frames in an order that means nothing; the sequence is listed even without any."""
    (folder / "frame_annotations.jgz").write_bytes(gzip.compress(json.dumps(frames[::-1]).encode()))
    sequence = {"sequence_name": SEQUENCE, "category": folder.name, "video": None, "point_cloud": None, "viewpoint_quality_score": 0.9}
    (folder / "sequence_annotations.jgz").write_bytes(gzip.compress(json.dumps([sequence]).encode()))
