"""A COLMAP model with its images as one sequence; its points become tracks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.geometry import se3
from perception.io.images import natural_key, read_image
from perception_training.data.layouts.colmap_model import PIXEL_CENTRE, ColmapPoints, model_file, read_cameras, read_images, read_points
from perception_training.data.layouts.image_sizes import camera_of_images
from perception_training.data.sample import Tracks
from perception_training.data.sequences import FrameRecord


def colmap_records(model_folder: Path, image_folder: Path) -> tuple[FrameRecord, ...]:
    """One record for each registered image, in the natural order of names, its camera scaled to the size of the images in this folder.

    An image that is listed but absent is kept: reading it reports it. Raises InputError for a damaged model, a folder without any of its
    images, or images of another shape than the model's cameras.
    """
    cameras = read_cameras(model_folder)
    listed = sorted(read_images(model_folder), key=lambda image: [natural_key(Path(part)) for part in Path(image.name).parts])
    place = model_file(model_folder, "images")
    if not listed:
        raise InputError(f"{place}: lists no images; must list at least one")
    unknown = next((image for image in listed if image.camera_id not in cameras), None)
    if unknown is not None:
        raise InputError(f"{place}: image {unknown.name} has camera {unknown.camera_id}: must be one of {sorted(cameras)}")
    if not image_folder.is_dir():
        raise InputError(f"{image_folder}: no such folder; must hold the images of {model_folder}")
    calibration = model_file(model_folder, "cameras")
    for camera_id in {image.camera_id for image in listed}:
        paths = (image_folder / image.name for image in listed if image.camera_id == camera_id)
        cameras[camera_id] = camera_of_images(cameras[camera_id], paths, calibration)
    return tuple(
        FrameRecord(
            name=image.name,
            source=image_folder / image.name,
            read_image=partial(read_image, image_folder / image.name),
            camera=cameras[image.camera_id],
            world_from_camera=se3.inverse(image.camera_from_world),
        )
        for image in listed
    )


def colmap_tracks(model_folder: Path, records: tuple[FrameRecord, ...], max_points: int) -> Tracks:
    """The model's points as tracks over all records: pixels are the detected keypoints (not the projections), NaN and not visible where COLMAP
    did not match the point.

    max_points: the points that most images see, ties by smaller error, then in order of their ids.
    """
    points = read_points(model_folder)
    kept = _longest(points, max_points)
    ids, frame_of = points.ids[kept], {record.name: frame for frame, record in enumerate(records)}
    points_px = np.full((len(records), len(ids), 2), np.nan, np.float32)
    full_size = read_cameras(model_folder)
    for image in read_images(model_folder, with_keypoints=True):
        frame = frame_of[image.name]
        matched = image.keypoints[np.isin(image.keypoints["point_id"], ids)]
        camera, full = records[frame].camera, full_size[image.camera_id]
        assert camera is not None
        scale = np.array([camera.width / full.width, camera.height / full.height])
        points_px[frame, np.searchsorted(ids, matched["point_id"])] = matched["xy"] * scale - PIXEL_CENTRE
    world = np.broadcast_to(points.xyz[kept].astype(np.float32), (len(records), len(ids), 3))
    return Tracks(points_px, np.asarray(np.isfinite(points_px).all(-1), np.bool_), world)


def _longest(points: ColmapPoints, max_points: int) -> NDArray[np.int64]:
    """Rows of the points to keep, in order of their ids."""
    best = np.lexsort((points.ids, points.error_px, -points.num_observations))[:max_points]
    return best[np.argsort(points.ids[best])]
