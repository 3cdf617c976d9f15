"""Writes the scene as collections of NAVI: layout, units and conventions of google/navi (README.md, data_util.py, transformations.py).

The scanned object is the table top within RADIUS_M of the origin with box and ball on it; its frame is that of the box, in millimetres.
"""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation
from tests.support.miniatures.scene import BOX_SIZE_M, MiniatureScene, miniature_scene, seen_by

from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.camera import depth_to_points

OBJECT = "table_top_small"
SCENES = ("multiview-00-pixel_5", "wild_set")
RADIUS_M = 0.9
UPSIDE = 1
"""The frame whose photograph is stored lying on its side, with an orientation tag."""

SPLITS = ("train", "val", "train", "train")
OCCLUDED = (False, False, False, True)


@lru_cache(maxsize=1)
def navi_scene() -> MiniatureScene:
    """The miniature scene through cameras as NAVI has them (one focal length, principal point in the middle), the last two images larger and odd."""
    small = seen_by(miniature_scene(), _camera(160, 120))
    large = seen_by(miniature_scene(), _camera(241, 181))
    chosen = (small, small, large, large)
    return dataclasses.replace(
        small,
        **{name: tuple(getattr(scene, name)[frame] for frame, scene in enumerate(chosen)) for name in ("images", "depth_m", "masks", "normals")},
        cameras=tuple(scene.cameras[0] for scene in chosen),
        points_px=np.stack([scene.points_px[frame] for frame, scene in enumerate(chosen)]),
        visible=np.stack([scene.visible[frame] for frame, scene in enumerate(chosen)]),
    )


def _camera(width: int, height: int) -> Camera:
    # OpenGL's (width // 2, height // 2) counts from the corner, half a pixel before the centre of the first pixel.
    return Camera(width, height, 0.9 * width, 0.9 * width, width // 2 - 0.5, height // 2 - 0.5)


def is_object(scene: MiniatureScene, frame: int) -> NDArray[np.bool_]:
    """(height, width) where the scanned object is seen."""
    points = depth_to_points(scene.depth_m[frame], scene.cameras[frame])
    world = se3.transform_points(scene.world_from_camera[frame], points.astype(np.float64))
    return np.isfinite(world).all(-1) & (np.linalg.norm(world[..., :2], axis=-1) < RADIUS_M)


def write_navi(folder: Path, scene: MiniatureScene) -> Path:
    """Write the object with a multi-view and a wild collection, and corners of the box as its scan; returns the folder of the object."""
    base = folder / OBJECT
    (base / "3d_scan").mkdir(parents=True)
    corners = np.array(np.meshgrid(*[(-size / 2, size / 2) for size in BOX_SIZE_M])).reshape(3, -1).T * 1000
    lines = ["v {:.3f} {:.3f} {:.3f}".format(*corner) for corner in corners] + ["f 1 2 3", "f 4 5 6", "f 5 7 8"]
    (base / "3d_scan" / f"{OBJECT}.obj").write_text("\n".join(lines) + "\n")
    for name in SCENES:
        entries = [_write_frame(base / name, scene, frame, name) for frame in range(len(scene))]
        (base / name / "annotations.json").write_text(json.dumps(entries))
    return base


def _write_frame(folder: Path, scene: MiniatureScene, frame: int, name: str) -> dict:
    for sub in ("images", "depth", "masks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    seen = is_object(scene, frame)
    picture = Image.fromarray(scene.images[frame])
    exif = picture.getexif()
    if frame == UPSIDE:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    picture.save(folder / "images" / f"{frame:03d}.jpg", quality=98, subsampling=0, exif=exif)
    millimetres = np.where(seen, scene.depth_m[frame] * 1000, np.inf)
    Image.fromarray(np.rint(65535 * 10 / millimetres).astype(np.uint16)).save(folder / "depth" / f"{frame:03d}.png")
    Image.fromarray(seen.astype(np.uint8) * 255).save(folder / "masks" / f"{frame:03d}.png")
    pose = scene.camera_from_object("box")[frame]
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat() * -1
    camera = scene.cameras[frame]
    return {
        "object_id": OBJECT,
        "camera": {"q": [w, x, y, z], "t": (pose[:3, 3] * 1000).tolist(), "focal_length": camera.fx, "camera_model": "pixel_5"},
        "filename": f"{frame:03d}.jpg",
        "filename_original": "PXL_20230304_014157778",
        "image_size": [camera.height, camera.width],
        "scene_name": name,
        "split": SPLITS[frame],
        "occluded": OCCLUDED[frame],
    }
