"""Writes the scene in the layout of 7-Scenes, as on the data set's page: two cameras that are not registered, depth in mm with 65535 invalid."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.support.miniatures.scene import MiniatureScene, miniature_scene, seen_by

from perception.core.types import Camera
from perception.io.images import write_image

COLOUR = Camera(640, 480, 525.0, 525.0, 320.0, 240.0)
DEPTH = Camera(640, 480, 585.0, 585.0, 320.0, 240.0)
INVALID = 65535


@cache
def colour_scene() -> MiniatureScene:
    """What the colour camera sees in three frames."""
    return seen_by(miniature_scene(3), COLOUR)


@cache
def _depth_mm() -> tuple[NDArray[np.uint16], ...]:
    """What the depth camera sees, with holes marked both ways in the first rows."""
    found = []
    for depth_m in seen_by(miniature_scene(3), DEPTH).depth_m:
        millimetres = np.rint(1000 * depth_m).astype(np.uint16)
        millimetres[depth_m == 0] = INVALID
        millimetres[200:210, 300:310], millimetres[200:210, 330:340] = 0, INVALID
        found.append(millimetres)
    return tuple(found)


def write_frames(folder: Path, *, intrinsics: bool = False, suffix: str = ".png") -> Path:
    """The frames of one sequence; `intrinsics` adds the file of the depth camera that flat folders have."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, image in enumerate(colour_scene().images):
        write_image(folder / f"frame-{frame:06d}.color{suffix}", image)
        write_image(folder / f"frame-{frame:06d}.depth.png", _depth_mm()[frame])
        np.savetxt(folder / f"frame-{frame:06d}.pose.txt", colour_scene().world_from_camera[frame], fmt="%.8e")
    if intrinsics:
        np.savetxt(folder / "camera-intrinsics.txt", DEPTH.matrix)
    return folder


def write_seven_scenes(root: Path) -> Path:
    """A scene with two sequences on disk, one for each split, and a third that the test split lists although it is absent."""
    for number in (1, 2):
        write_frames(root / "chess" / f"seq-{number:02d}")
    (root / "chess" / "TrainSplit.txt").write_text("sequence1\n")
    (root / "chess" / "TestSplit.txt").write_text("sequence2\nsequence10\n")
    return root
