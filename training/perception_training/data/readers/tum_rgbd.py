"""TUM RGB-D: Kinect sequences with the camera's trajectory from motion capture.

Layout and formats after the data set's page (cvg.cit.tum.de/data/datasets/rgbd-dataset, "File Formats"): `rgb.txt` and `depth.txt` with "timestamp
filename", `groundtruth.txt` with "timestamp tx ty tz qx qy qz qw" of the colour camera's optical centre in the motion capture's frame; depth
registered to colour, 16-bit with 5000 for a metre, 0 unknown. Lists are joined as the data set's `associate.py` does: one to one, the nearest in time
first, less than 0.02 s apart. Colour images of freiburg1 and freiburg2 are distorted, those of freiburg3 are not. Intrinsics are the page's, with
the digits of ORB-SLAM2's TUM1, TUM2 and TUM3 settings; the page itself could not be opened here. The sequences `*_validation` have no trajectory.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry.so3 import from_quaternion_xyzw
from perception.io.images import read_image
from perception_training.data.layouts.annotation_files import read_lines
from perception_training.data.layouts.depth_images import read_scaled_depth
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

UNITS_PER_METRE = 5000.0
_FIRST_LENS = (0.262383, -0.953104, -0.005358, 0.002628, 1.163314)
_SECOND_LENS = (0.231222, -0.784899, -0.003257, -0.000105, 0.917205)
CAMERAS = {
    "freiburg1": Camera(640, 480, 517.306408, 516.469215, 318.643040, 255.313989, "plumb_bob", _FIRST_LENS),
    "freiburg2": Camera(640, 480, 520.908620, 521.007327, 325.141442, 249.701764, "plumb_bob", _SECOND_LENS),
    "freiburg3": Camera(640, 480, 535.4, 539.2, 320.1, 247.6),
}
DEFAULT_CAMERA = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)
"""ROS's default for the Kinect, for sequences that are named otherwise."""


@dataclass(frozen=True, kw_only=True)
class TumRgbdOptions(Checked):
    """How images, depth and poses are joined."""

    max_time_difference_s: Annotated[float, Range(0.0, 1.0, "s")] = 0.02
    """Depth and poses further than this from an image in time are not its own."""


class TumRgbd(Dataset):
    """RGB-D clips with motion-capture poses (TUM RGB-D).

    Sequences in metres; a frame without depth or pose near enough in time has none.
    """

    name: ClassVar[str] = "tum_rgbd"
    Options: ClassVar[type[Checked]] = TumRgbdOptions
    options: TumRgbdOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if _is_sequence(self.root):
            return (self.root.resolve().name,)
        return tuple(sorted(path.name for path in self.root.iterdir() if _is_sequence(path)))

    def open_sequence(self, name: str) -> RecordedSequence:
        folder = self.root if _is_sequence(self.root) else self.root / name
        image_times, image_files = read_file_list(folder / "rgb.txt")
        depth_times, depth_files = read_file_list(folder / "depth.txt")
        depth_of = associate(image_times, depth_times, self.options.max_time_difference_s)
        poses = _poses_at(folder, name, image_times, self.options.max_time_difference_s)
        camera = next((camera for key, camera in CAMERAS.items() if key in name), DEFAULT_CAMERA)
        size = (camera.width, camera.height)
        records = tuple(
            FrameRecord(
                name=file.stem,
                source=file,
                read_image=partial(read_image, file),
                camera=camera,
                world_from_camera=None if poses is None else poses[row],
                read_depth=partial(read_scaled_depth, depth_files[depth_of[row]], UNITS_PER_METRE, size) if depth_of[row] >= 0 else None,
                time_s=float(image_times[row]),
            )
            for row, file in enumerate(image_files)
        )
        return RecordedSequence(self.name, name, records)


def _is_sequence(folder: Path) -> bool:
    return (folder / "rgb.txt").is_file() or (folder / "rgb").is_dir()


def read_file_list(path: Path) -> tuple[NDArray[np.float64], list[Path]]:
    """Times in s, ascending, and the files of a list such as rgb.txt. Raises InputError that names the list."""
    rows = []
    for line in read_lines(path):
        fields = line.split()
        if len(fields) != 2:
            raise InputError(f"{path}: line {line[:80]!r}: must be a time and a file name")
        rows.append((_number(fields[0], path, line), path.parent / fields[1]))
    if not rows:
        raise InputError(f"{path}: lists no files; must list at least one")
    rows.sort(key=lambda row: row[0])
    return np.array([row[0] for row in rows]), [row[1] for row in rows]


def read_trajectory(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in s, ascending, and world_from_camera (num, 4, 4). Raises InputError that names the file when a pose is no rigid motion."""
    rows = []
    for line in read_lines(path):
        fields = [_number(field, path, line) for field in line.replace(",", " ").split()]
        if len(fields) != 8 or not np.isfinite(fields).all() or abs(np.linalg.norm(fields[4:]) - 1) > 1e-2:
            raise InputError(f"{path}: line {line[:80]!r}: must be time, translation and a quaternion xyzw of length 1")
        rows.append(fields)
    if not rows:
        raise InputError(f"{path}: holds no poses; must hold at least one")
    table = np.array(rows, np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    poses = np.tile(np.eye(4), (len(table), 1, 1))
    poses[:, :3, :3] = from_quaternion_xyzw(table[:, 4:] / np.linalg.norm(table[:, 4:], axis=1, keepdims=True))
    poses[:, :3, 3] = table[:, 1:4]
    return table[:, 0], poses


def _number(text: str, path: Path, line: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path}: line {line[:80]!r}: {text[:20]!r} is no number") from error


def _poses_at(folder: Path, name: str, times: NDArray[np.float64], max_difference_s: float) -> NDArray[np.float64] | None:
    """(frames, 4, 4), NaN where the trajectory has no pose near enough; None for a validation sequence, whose trajectory is not published."""
    path = folder / "groundtruth.txt"
    if not path.exists() and name.endswith("_validation"):
        return None
    pose_times, poses = read_trajectory(path)
    rows = associate(times, pose_times, max_difference_s)
    return np.where((rows >= 0)[:, None, None], poses[rows], np.nan)


def associate(times: NDArray[np.float64], others: NDArray[np.float64], max_difference_s: float) -> NDArray[np.int64]:
    """For each of `times` the index of the one of `others` (both ascending) that belongs to it, -1 where none is near enough.

    One to one: pairs are made in the order of their difference in time.
    """
    pairs = []
    for row, time in enumerate(times):
        for other in range(bisect_right(others, time - max_difference_s), len(others)):
            if others[other] >= time + max_difference_s:
                break
            pairs.append((abs(others[other] - time), row, other))
    found, taken = np.full(len(times), -1, np.int64), np.zeros(len(others), np.bool_)
    for _, row, other in sorted(pairs):
        if found[row] < 0 and not taken[other]:
            found[row], taken[other] = other, True
    return found
