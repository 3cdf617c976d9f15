"""Carry a whole sample over to new views of its frames.

A mirror is no rigid motion, so a flipped sample shows the mirrored world: its x axis changes sign in the world, in every camera and in every object,
with M = diag(-1, 1, 1) world_from_camera becomes M world_from_camera M. All transforms stay rotations and every projection holds, but handedness is
that of a mirror: meshes on disk no longer fit (`ObjectTrack.mesh` becomes None), and text or names that say left or right no longer hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perception_training.data.augmentation.resampling import Border, resample_image, resample_nearest
from perception_training.data.augmentation.views import View, camera_of, new_from_old_px, view_of
from perception_training.data.sample import ObjectTrack, Sample, Tracks

_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def views_of(sample: Sample) -> list[View]:
    """The unchanged views of all frames."""
    cameras = sample.cameras if sample.cameras is not None else (None,) * len(sample)
    return [view_of(camera, image.shape[1], image.shape[0]) for camera, image in zip(cameras, sample.images, strict=True)]


def warp_sample(sample: Sample, views: Sequence[View], border: Border = "black") -> Sample:
    """The sample as seen in `views`, one for each frame, made from `views_of(sample)`; either all of them are mirrored or none."""
    is_mirrored = views[0].is_mirrored
    assert all(view.is_mirrored == is_mirrored for view in views), "a world is mirrored for all frames or for none"
    maps = [new_from_old_px(old, new) for old, new in zip(views_of(sample), views, strict=True)]
    sizes = [view.size for view in views]
    new_from_old = np.stack([_camera_axes(view) for view in views])
    masks = _nearest(sample.masks, maps, sizes)
    cameras = sample.cameras
    if cameras is not None:
        cameras = tuple(None if camera is None else camera_of(view, camera) for view, camera in zip(views, cameras, strict=True))
    return replace(
        sample,
        images=tuple(resample_image(image, affine, size, border) for image, affine, size in zip(sample.images, maps, sizes, strict=True)),
        cameras=cameras,
        world_from_camera=_warp_poses(sample.world_from_camera, new_from_old, is_mirrored),
        depth_m=_nearest(sample.depth_m, maps, sizes),
        masks=masks,
        normals=_warp_normals(sample.normals, maps, sizes, views),
        dynamic=_nearest(sample.dynamic, maps, sizes),
        tracks=_warp_tracks(sample.tracks, maps, sizes, is_mirrored),
        objects=tuple(
            replace(
                _warp_object(item, new_from_old, is_mirrored, _kept_shares(item, sample.masks, masks, maps)),
                boxes_px=None if item.boxes_px is None else _warp_boxes(item.boxes_px, maps),
            )
            for item in sample.objects
        ),
    )


def _camera_axes(view: View) -> NDArray[np.float64]:
    """(4, 4) new camera axes from old ones."""
    new_from_old = np.eye(4)
    new_from_old[:2, :2] = view.axes
    return new_from_old


def _nearest(values: tuple[NDArray, ...] | None, maps: list[NDArray[np.float64]], sizes: list[tuple[int, int]]) -> tuple[NDArray, ...] | None:
    if values is None:
        return None
    return tuple(resample_nearest(value, affine, size) for value, affine, size in zip(values, maps, sizes, strict=True))


def _warp_poses(poses: NDArray[np.float64] | None, new_from_old: NDArray[np.float64], is_mirrored: bool) -> NDArray[np.float64] | None:
    if poses is None:
        return None
    turned = poses @ new_from_old.swapaxes(-1, -2)  # the inverse of a rotation or reflection
    return _MIRROR @ turned if is_mirrored else turned


def _warp_normals(
    normals: tuple[NDArray[np.float32], ...] | None, maps: list[NDArray[np.float64]], sizes: list[tuple[int, int]], views: Sequence[View]
) -> tuple[NDArray[np.float32], ...] | None:
    resampled = _nearest(normals, maps, sizes)
    if resampled is None:
        return None
    for values, view in zip(resampled, views, strict=True):
        if not np.array_equal(view.axes, np.eye(2)):
            values[..., :2] = values[..., :2] @ view.axes.T.astype(np.float32)
    return resampled


def _warp_tracks(tracks: Tracks | None, maps: list[NDArray[np.float64]], sizes: list[tuple[int, int]], is_mirrored: bool) -> Tracks | None:
    """Points move along; one that leaves the image is no longer visible."""
    if tracks is None:
        return None
    affine = np.stack(maps)
    points = tracks.points_px.astype(np.float64) @ affine[:, :, :2].swapaxes(1, 2) + affine[:, None, :, 2]
    with np.errstate(invalid="ignore"):
        inside = ((points >= -0.5) & (points < np.array(sizes)[:, None] - 0.5)).all(-1)
    world = tracks.points_world
    if world is not None and is_mirrored:
        world = world * np.array([-1, 1, 1], np.float32)
    return replace(tracks, points_px=points.astype(np.float32), visible=tracks.visible & inside, points_world=world)


def _warp_object(item: ObjectTrack, new_from_old: NDArray[np.float64], is_mirrored: bool, kept_shares: NDArray[np.float64] | None) -> ObjectTrack:
    share = None if item.visible_share is None else item.visible_share * (np.nan if kept_shares is None else kept_shares)
    poses = new_from_old @ item.camera_from_object
    if not is_mirrored:
        return replace(item, camera_from_object=poses, visible_share=share)
    bounds = None
    if item.bounds is not None:
        ends = item.bounds * (-1, 1, 1)
        bounds = np.stack([ends.min(0), ends.max(0)])
    return replace(item, camera_from_object=poses @ _MIRROR, bounds=bounds, mesh=None, visible_share=share)


def _warp_boxes(boxes_px: NDArray[np.float64], maps: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(T, 4) boxes around the moved corners of (T, 4); like the boxes of the data sets they may reach beyond the image."""
    corners = boxes_px[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    affine = np.stack(maps)
    moved = corners @ affine[:, :, :2].swapaxes(1, 2) + affine[:, None, :, 2]
    return np.concatenate([moved.min(1), moved.max(1)], axis=1)


def _kept_shares(
    item: ObjectTrack, old: tuple[NDArray[np.int32], ...] | None, new: tuple[NDArray[np.int32], ...] | None, maps: list[NDArray[np.float64]]
) -> NDArray[np.float64] | None:
    """(T,) how much of what was seen of an object is still in the image, by its mask; None without one."""
    if item.visible_share is None or old is None or new is None or item.mask_id == 0:
        return None
    before = np.array([np.count_nonzero(mask == item.mask_id) for mask in old])
    after = np.array([np.count_nonzero(mask == item.mask_id) for mask in new])
    areas = np.array([abs(np.linalg.det(affine[:, :2])) for affine in maps])
    return np.minimum(after / np.maximum(before * areas, 1e-9), 1.0)
