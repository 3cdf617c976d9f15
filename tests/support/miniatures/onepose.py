"""Writes the box of the scene as a OnePose object, by zju3dv/OnePose_Plus_Plus doc/dataset_document.md and parse_scanned_data.py."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tests.support.miniatures.objects import BOUNDS, corners, true_corners_px
from tests.support.miniatures.scene import MiniatureScene

from perception.io.videos import VideoWriter

CROP_PX = 96
FRAME_STEP = 5
"""Every fifth frame of the video was annotated."""


def frame_number(frame: int) -> int:
    """Number of a frame of the scene in the video: 0, 5, 10, ..., which must be sorted as numbers."""
    return FRAME_STEP * frame


def crop_from_full(scene: MiniatureScene, frame: int) -> NDArray[np.float64]:
    """(3, 3) that takes pixels of the whole frame into the crop around the box: its outermost corners come to 0 and CROP_PX."""
    points = true_corners_px(scene, "box", frame).astype(int)
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    sx, sy = CROP_PX / (x1 - x0), CROP_PX / (y1 - y0)
    return np.array([[sx, 0, -sx * x0], [0, sy, -sy * y0], [0, 0, 1]])


def write_onepose(
    root: Path, scene: MiniatureScene, sequences: tuple[int, ...] = (1, 2), *, unpacked: bool = True, rotation_scale: float = 1.0, rate_hz: float = 30
) -> Path:
    """Write lowtexture_test_data with one object; returns the object's folder.

    unpacked: whole frames as color_full, else as Frames.m4v · rotation_scale: of the second frame's pose.
    """
    folder = root / "lowtexture_test_data" / "0700-woodbox-others"
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "box3d_corners.txt", corners(BOUNDS["box"])[::-1])
    for number in sequences:
        sequence = folder / f"woodbox-{number}"
        for name in ("color", "intrin_ba", "poses_ba", "reproj_box"):
            (sequence / name).mkdir(parents=True, exist_ok=True)
        for frame in range(len(scene)):
            _write_frame(sequence, scene, frame, rotation_scale if frame == 1 else 1.0)
        camera = scene.cameras[0]
        (sequence / "intrinsics.txt").write_text(f"fx: {camera.fx}\nfy: {camera.fy}\ncx: {camera.cx}\ncy: {camera.cy}")
        if unpacked:
            (sequence / "color_full").mkdir(exist_ok=True)
            for frame in range(len(scene)):
                cv2.imwrite(str(sequence / "color_full" / f"{frame_number(frame)}.png"), scene.images[frame][..., ::-1])
        else:
            with VideoWriter(sequence / "Frames.m4v", rate_hz) as writer:
                for index in range(frame_number(len(scene) - 1) + 1):
                    writer.write(scene.images[index // FRAME_STEP] if index % FRAME_STEP == 0 else np.zeros_like(scene.images[0]))
    return folder


def _write_frame(sequence: Path, scene: MiniatureScene, frame: int, rotation_scale: float) -> None:
    number, crop = frame_number(frame), crop_from_full(scene, frame)
    image = cv2.warpAffine(scene.images[frame], crop[:2], (CROP_PX, CROP_PX), flags=cv2.INTER_LINEAR)
    cv2.imwrite(str(sequence / "color" / f"{number}.png"), image[..., ::-1])
    np.savetxt(sequence / "intrin_ba" / f"{number}.txt", crop @ scene.cameras[frame].matrix)
    pose = scene.camera_from_object("box")[frame].copy()
    pose[:3, :3] *= rotation_scale
    np.savetxt(sequence / "poses_ba" / f"{number}.txt", pose)
    np.savetxt(sequence / "reproj_box" / f"{number}.txt", true_corners_px(scene, "box", frame))
