"""Writes the scene in the layout of TUM RGB-D, after "File Formats" on the data set's page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from tests.support.miniatures.scene import MiniatureScene, miniature_scene, seen_by

from perception.core.types import Camera
from perception.io.images import write_image

FIRST_TIME_S, PERIOD_S = 1305031102.175304, 0.0333
LENS = (0.231222, -0.784899, -0.003257, -0.000105, 0.917205)
CAMERAS = {
    "freiburg2": Camera(640, 480, 520.908620, 521.007327, 325.141442, 249.701764, "plumb_bob", LENS),
    "freiburg3": Camera(640, 480, 535.4, 539.2, 320.1, 247.6),
    "default": Camera(640, 480, 525.0, 525.0, 319.5, 239.5),
}


@cache
def tum_scene(camera: str) -> MiniatureScene:
    """Four frames through one of the data set's cameras."""
    return seen_by(miniature_scene(4), CAMERAS[camera])


def time_of(frame: int) -> float:
    return FIRST_TIME_S + PERIOD_S * frame


def write_tum_rgbd(folder: Path, camera: str = "freiburg3") -> Path:
    """One sequence. The second frame has no depth within 20 ms, the fourth no pose; depth comes 5 ms late, poses at 200 Hz."""
    scene = tum_scene(camera)
    rgb, depth = ["# color images", "# timestamp filename"], ["# depth maps", "# timestamp filename"]
    truth = ["# ground truth trajectory", "# timestamp tx ty tz qx qy qz qw"]
    for frame in range(len(scene)):
        image_file, time_s = f"rgb/{time_of(frame):.6f}.png", time_of(frame)
        write_image(folder / image_file, scene.images[frame])
        rgb.append(f"{time_s:.6f} {image_file}")
        late_s = time_s + (0.005 if frame != 1 else 0.0215)
        stored = np.rint(5000 * scene.depth_m[frame].astype(np.float64)).astype(np.uint16)
        stored[200:210, 300:310] = 0
        write_image(folder / f"depth/{late_s:.6f}.png", stored)
        depth.append(f"{late_s:.6f} depth/{late_s:.6f}.png")
        if frame < 3:
            numbers = [*scene.world_from_camera[frame, :3, 3], *Rotation.from_matrix(scene.world_from_camera[frame, :3, :3]).as_quat()]
            for shift_s, offset_m in ((-0.005, 0.1), (0.0, 0.0), (0.005, -0.1)):  # only the nearest in time is right
                shifted = [numbers[0] + offset_m, *numbers[1:]]
                truth.append(f"{time_s + shift_s:.4f} " + " ".join(f"{number:.6f}" for number in shifted))
    for file, lines in (("rgb.txt", rgb), ("depth.txt", depth), ("groundtruth.txt", truth)):
        (folder / file).write_text("\n".join(lines) + "\n")
    return folder
