"""Writes the scene in the layout of MVImgNet (GAP-LAB-CUHK-SZ/MVImgNet README.md), with masks as public loaders of the set expect them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tests.support.miniatures.colmap import write_colmap
from tests.support.miniatures.scene import MiniatureScene

from perception.io.images import write_image


def image_name(frame: int) -> str:
    return f"{frame + 1:03d}.jpg"


def write_mvimgnet(root: Path, scene: MiniatureScene, *, sequence: str = "0/0a00f1c2", quaternion_length: float = 1.0) -> Path:
    """Images, model, names of classes, and masks of half the resolution for all frames but the last; returns the folder of the sequence.

    The set's cameras are SIMPLE_RADIAL, so the scene's must have one focal length.
    """
    write_colmap(root / sequence, scene, model="SIMPLE_RADIAL", name_of=image_name, quaternion_length=quaternion_length)
    (root / "mvimgnet_category.txt").write_text("0,bag\n1,bottle\n")
    for frame in range(len(scene) - 1):
        mask = 255 * (scene.masks[frame] > 0).astype(np.uint8)
        write_image(root / "masks" / sequence / f"{image_name(frame)}.png", cv2.resize(mask, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST))
    return root / sequence
