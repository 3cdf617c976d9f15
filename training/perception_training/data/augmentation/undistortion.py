"""Remove lens distortion from a sample: same intrinsic matrix, no coefficients; poses and depth along z stay."""

from __future__ import annotations

import functools
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera
from perception.geometry.camera import distort, undistort_points
from perception_training.data.augmentation.resampling import remap_nearest
from perception_training.data.sample import Sample, Tracks

_PIXEL_MAPS = ("depth_m", "masks", "normals", "dynamic")


def undistort_sample(sample: Sample) -> Sample:
    """The sample as pinhole cameras would have seen it; what no camera saw is black, with depth 0. Itself where no lens distorts."""
    cameras = sample.cameras
    if cameras is None or all(camera is None or camera.distortion_model == "none" for camera in cameras):
        return sample
    changed: dict[str, tuple[NDArray, ...] | tuple[Camera | None, ...]] = {}
    for name in _PIXEL_MAPS:
        values = getattr(sample, name)
        if values is not None:
            changed[name] = tuple(_undistorted(value, camera) for value, camera in zip(values, cameras, strict=True))
    changed["images"] = tuple(_undistorted_image(image, camera) for image, camera in zip(sample.images, cameras, strict=True))
    changed["cameras"] = tuple(None if camera is None else replace(camera, distortion_model="none", distortion=()) for camera in cameras)
    return replace(sample, tracks=_undistorted_tracks(sample.tracks, cameras), **changed)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=8)
def _old_pixels(camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each pixel of the straight image lies in the distorted one: x and y (height, width)."""
    x, y = np.meshgrid((np.arange(camera.width) - camera.cx) / camera.fx, (np.arange(camera.height) - camera.cy) / camera.fy)
    bent = distort(np.stack([x, y], axis=-1), camera)
    return (bent[..., 0] * camera.fx + camera.cx).astype(np.float32), (bent[..., 1] * camera.fy + camera.cy).astype(np.float32)


def _undistorted(values: NDArray, camera: Camera | None) -> NDArray:
    return values if camera is None or camera.distortion_model == "none" else remap_nearest(values, *_old_pixels(camera))


def _undistorted_image(image: NDArray[np.uint8], camera: Camera | None) -> NDArray[np.uint8]:
    if camera is None or camera.distortion_model == "none":
        return image
    return np.asarray(cv2.remap(image, *_old_pixels(camera), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0), np.uint8)


def _undistorted_tracks(tracks: Tracks | None, cameras: tuple[Camera | None, ...]) -> Tracks | None:
    """Points follow; one that the lens model cannot reach becomes unknown, one outside the image invisible."""
    if tracks is None:
        return None
    points, visible = tracks.points_px.copy(), tracks.visible.copy()
    for frame, camera in enumerate(cameras):
        if camera is not None:
            straight = undistort_points(points[frame].astype(np.float64), camera)
            with np.errstate(invalid="ignore"):
                visible[frame] &= ((straight >= -0.5) & (straight < (camera.width - 0.5, camera.height - 0.5))).all(-1)
            points[frame] = straight
    return replace(tracks, points_px=points, visible=visible)
