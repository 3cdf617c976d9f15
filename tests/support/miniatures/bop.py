"""Writes the scene in the BOP format, by thodan/bop_toolkit docs/bop_datasets_format.md and the writers of bop_toolkit_lib/inout.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tests.support.miniatures.objects import BOUNDS
from tests.support.miniatures.scene import MiniatureScene, meshes

from perception.io import meshes as mesh_files

IMAGE_IDS = (3, 36, 47, 1083)
"""With gaps, and in an order that differs from that of their texts."""

OBJECT_IDS = {"box": 7, "ball": 2}
DEPTH_SCALE = 0.1
MASK_IDS = {"box": 1, "ball": 2}


def write_bop(
    root: Path,
    scene: MiniatureScene,
    *,
    split: str = "test",
    scene_id: int = 48,
    object_ids: Mapping[str, int] = OBJECT_IDS,
    colour: str = "rgb",
    suffix: str = ".png",
    sensor: str = "",
    with_scene_poses: bool = True,
    rotation_scale: float = 1.0,
    absent: tuple[tuple[str, int], ...] = (),
) -> Path:
    """Write one scene with its models and targets; returns the folder of the scene.

    colour: folder of the images (rgb, gray) · sensor: ending of multi-sensor sets · rotation_scale: of the second image's first annotation,
    whose rotation is none unless it is 1 · absent: (object, frame) without annotation.
    """
    ending = f"_{sensor}" if sensor else ""
    folder = root / split / f"{scene_id:06d}"
    for kind in (colour, "depth", "mask", "mask_visib"):
        (folder / f"{kind}{ending}").mkdir(parents=True, exist_ok=True)
    cameras: dict[str, Any] = {}
    truth: dict[str, Any] = {}
    info: dict[str, Any] = {}
    for frame, image_id in enumerate(IMAGE_IDS[: len(scene)]):
        image = scene.images[frame][..., ::-1]
        cv2.imwrite(str(folder / f"{colour}{ending}" / f"{image_id:06d}{suffix}"), image if colour == "rgb" else image[..., 1])
        depth_units = np.round(scene.depth_m[frame] * 1000 / DEPTH_SCALE).astype(np.uint16)
        depth_suffix = ".tif" if suffix == ".tif" else ".png"
        cv2.imwrite(str(folder / f"depth{ending}" / f"{image_id:06d}{depth_suffix}"), depth_units)
        cameras[str(image_id)] = _camera(scene, frame, with_scene_poses)
        names = [name for name in (["box", "ball"] if frame % 2 else ["ball", "box"]) if (name, frame) not in absent]
        if len(set(object_ids.values())) == 1:
            names = sorted(names, reverse=True)  # instances of one object are told apart by their order
        truth[str(image_id)] = [_pose(scene, frame, name, object_ids[name]) for name in names]
        info[str(image_id)] = [_info(folder, ending, scene, frame, name, f"{image_id:06d}_{index:06d}.png") for index, name in enumerate(names)]
    second = truth[str(IMAGE_IDS[1])][0]
    second["cam_R_m2c"] = [rotation_scale * value for value in second["cam_R_m2c"]]
    for name, content in (("scene_camera", cameras), ("scene_gt", truth), ("scene_gt_info", info)):
        (folder / f"{name}{ending}.json").write_text(json.dumps(content))
    _write_models(root, object_ids)
    targets = [{"im_id": IMAGE_IDS[frame], "inst_count": 1, "obj_id": object_ids["box"], "scene_id": scene_id} for frame in (1, 3)]
    (root / "test_targets_bop19.json").write_text(json.dumps(targets))
    return folder


def _camera(scene: MiniatureScene, frame: int, with_scene_poses: bool) -> dict[str, Any]:
    camera = scene.cameras[frame]
    found: dict[str, Any] = {"cam_K": [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0], "depth_scale": DEPTH_SCALE}
    if with_scene_poses:
        rotation = scene.world_from_camera[frame][:3, :3]
        found["cam_R_w2c"] = [float(rotation[column, row]) for row in range(3) for column in range(3)]  # the transpose, row by row
        found["cam_t_w2c"] = [float(v) for v in -rotation.T @ (1000 * scene.world_from_camera[frame][:3, 3])]
    return found


def _pose(scene: MiniatureScene, frame: int, name: str, object_id: int) -> dict[str, Any]:
    pose = scene.camera_from_object(name)[frame]
    rotation = [float(pose[row, column]) for row in range(3) for column in range(3)]
    return {"cam_R_m2c": rotation, "cam_t_m2c": [1000 * float(pose[row, 3]) for row in range(3)], "obj_id": object_id}


def _info(folder: Path, ending: str, scene: MiniatureScene, frame: int, name: str, file_name: str) -> dict[str, Any]:
    visible = scene.masks[frame] == MASK_IDS[name]
    cv2.imwrite(str(folder / f"mask_visib{ending}" / file_name), visible.astype(np.uint8) * 255)
    cv2.imwrite(str(folder / f"mask{ending}" / file_name), np.ones_like(visible, np.uint8) * 255)
    rows, columns = np.nonzero(visible)
    box = [int(columns.min()), int(rows.min()), int(columns.max() - columns.min()), int(rows.max() - rows.min())] if len(rows) else [-1] * 4
    return {"bbox_obj": [0, 0, 5, 5], "bbox_visib": box, "px_count_visib": len(rows), "visib_fract": 0.75 if name == "box" else 0.5}


def _write_models(root: Path, object_ids: Mapping[str, int]) -> None:
    (root / "models").mkdir(exist_ok=True)
    infos = {}
    for name, object_id in object_ids.items():
        mesh = meshes().meshes[meshes().names.index(name)]
        in_mm = mesh_files.Mesh(mesh.vertices * 1000, mesh.faces, vertex_colors=np.full((len(mesh.vertices), 3), 128, np.uint8))
        mesh_files.save(in_mm, root / "models" / f"obj_{object_id:06d}.ply")
        low, high = 1000 * BOUNDS[name]
        infos[str(object_id)] = {"diameter": float(np.linalg.norm(high - low))}
        infos[str(object_id)] |= {f"min_{axis}": float(low[i]) for i, axis in enumerate("xyz")}
        infos[str(object_id)] |= {f"size_{axis}": float(high[i] - low[i]) for i, axis in enumerate("xyz")}
    (root / "models" / "models_info.json").write_text(json.dumps(infos))
