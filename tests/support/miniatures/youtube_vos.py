"""Writes the scene as videos of YouTube-VOS, layout as read by visionml/pytracking ltr/dataset/youtubevos.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.support.miniatures.scene import MiniatureScene

VIDEO = "003234408d"
FIRST, STEP = 15, 5
"""Number of the first frame, and distance of annotated frames."""

CATEGORIES = {"1": "box", "2": "ball"}


def number(frame: int) -> str:
    return f"{FIRST + frame:05d}"


def write_youtube_vos(folder: Path, scene: MiniatureScene) -> Path:
    """Write train, train_all_frames and valid of the scene, whose frames are consecutive; returns the folder.

    In valid the box has its mask in the first annotated frame and the ball in the second only.
    """
    annotated = range(0, len(scene), STEP)
    listed = [number(frame) for frame in annotated]
    for frame in range(len(scene)):
        _write_image(folder / "train_all_frames" / "JPEGImages" / VIDEO / f"{number(frame)}.jpg", scene.images[frame])
    for split in ("train", "valid"):
        for frame in annotated:
            _write_image(folder / split / "JPEGImages" / VIDEO / f"{number(frame)}.jpg", scene.images[frame])
        objects = {key: {"category": category, "frames": listed} for key, category in CATEGORIES.items()}
        (folder / split / "meta.json").write_text(json.dumps({"videos": {VIDEO: {"objects": objects}}}))
    for frame in annotated:
        _write_mask(folder / "train" / "Annotations" / VIDEO / f"{number(frame)}.png", scene.masks[frame])
    for key, frame in ((1, 0), (2, STEP)):
        mask = scene.masks[frame]
        _write_mask(folder / "valid" / "Annotations" / VIDEO / f"{number(frame)}.png", np.where(mask == key, mask, 0))
    return folder


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=98, subsampling=0)


def _write_mask(path: Path, mask: NDArray[np.int32]) -> None:
    """Palette as DAVIS has it: the id shows as a colour, not as a grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
    picture.save(path)
