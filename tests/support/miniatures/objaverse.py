"""The miniature scene as MEF's renders of one object, file for file as 3DCorrEnhance's `data_utils/blenderproc.py` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tests.support.miniatures.scene import MiniatureScene

OBJECT = "000-151/607e232d7f14478082cfb13695ed7bd2"


def write_objaverse(root: Path, scene: MiniatureScene, name: str = OBJECT) -> Path:
    """Write `root/objaverse_renderings/<name>` and `root/obj_poses.npy`; returns the folder of the object. Its units are the scene's metres."""
    folder = root / "objaverse_renderings" / name
    folder.mkdir(parents=True, exist_ok=True)
    np.save(root / "obj_poses.npy", np.linalg.inv(scene.world_from_camera))
    for index in range(len(scene)):
        seen = scene.depth_m[index] > 0
        mask = Image.fromarray(np.uint8(seen * 255))
        mask.save(folder / f"mask_{index:06d}.png")
        black = Image.new("RGB", mask.size)
        Image.composite(Image.fromarray(scene.images[index]), black, mask).save(folder / f"color_{index:06d}.png")
        Image.fromarray(np.round(1000.0 * scene.depth_m[index]).astype(np.uint16)).save(folder / f"depth_{index:06d}.png")
    return folder
