"""Writes the scene as ScanNet's exporter does (ScanNet/ScanNet SensReader/python/SensorData.py): two cameras, mm, a lost pose as -inf."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.support.miniatures.scene import MiniatureScene, miniature_scene, seen_by

from perception.core.types import Camera
from perception.io.images import write_image

COLOUR = Camera(648, 484, 585.4, 586.9, 323.2, 242.9)
DEPTH = Camera(320, 240, 288.9, 289.4, 159.75, 119.75)
LOST_FRAME = 2


@cache
def colour_scene() -> MiniatureScene:
    return seen_by(miniature_scene(4), COLOUR)


@cache
def _depth_scene() -> MiniatureScene:
    return seen_by(miniature_scene(4), DEPTH)


def _save_matrix(path: Path, matrix: NDArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(f"{value:f}" for value in row) + "\n" for row in matrix))


def write_scannet(root: Path, scene: str = "scene0000_00") -> Path:
    """One scene of four frames, the third without a pose; the folder of the scene."""
    folder = root / scene
    for kind, camera in (("color", COLOUR), ("depth", DEPTH)):
        matrix = np.eye(4)
        matrix[:3, :3] = camera.matrix
        _save_matrix(folder / "intrinsic" / f"intrinsic_{kind}.txt", matrix)
        _save_matrix(folder / "intrinsic" / f"extrinsic_{kind}.txt", np.eye(4))
    for frame, image in enumerate(colour_scene().images):
        write_image(folder / "color" / f"{frame}.jpg", image)
        millimetres = np.rint(1000 * _depth_scene().depth_m[frame].astype(np.float64)).astype(np.uint16)
        millimetres[100:105, 150:155] = 0
        write_image(folder / "depth" / f"{frame}.png", millimetres)
        pose = np.full((4, 4), -np.inf) if frame == LOST_FRAME else colour_scene().world_from_camera[frame]
        _save_matrix(folder / "pose" / f"{frame}.txt", pose)
    return folder
