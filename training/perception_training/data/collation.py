"""Samples become one batch of tensors; what a sample lacks is flagged and filled neutrally."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.core.errors import InputError
from perception_training.data.sample import ObjectTrack, Sample


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples of T frames of one size. Maps and tracks are None when no sample of the batch has them; each flag is always there.

    images (B, T, 3, H, W) uint8 RGB · intrinsics (B, T, 3, 3) float64, identity without `has_camera` (B, T) · world_from_camera (B, T, 4, 4)
    float64, identity without `has_pose` (B, T) · depth_m (B, T, H, W) float32, 0 unknown; `has_depth` (B, T): some pixel is known ·
    masks (B, T, H, W) int32, 0 unknown, `has_masks` (B, T) · normals (B, T, 3, H, W) float32, 0 unknown, `has_normals` (B,) ·
    dynamic (B, T, H, W) bool, `has_dynamic` (B,) · times_s (B, T) float64, NaN unknown · is_metric (B,): units are metres.
    Tracks, padded to the N of the longest: track_points_px (B, T, N, 2) float32, 0 where not `track_known` (B, T, N) · track_visible (B, T, N) ·
    track_points_world (B, T, N, 3) float32, 0 where not `track_world_known` (B, T, N) · track_query_frames (B, N) int64, -1 unknown.
    For each sample: datasets, sequences, frame_names, texts, attributes, objects, track_names.
    """

    images: Tensor
    intrinsics: Tensor
    has_camera: Tensor
    world_from_camera: Tensor
    has_pose: Tensor
    has_depth: Tensor
    has_masks: Tensor
    has_normals: Tensor
    has_dynamic: Tensor
    times_s: Tensor
    is_metric: Tensor
    datasets: tuple[str, ...]
    sequences: tuple[str, ...]
    frame_names: tuple[tuple[str, ...], ...]
    texts: tuple[str | None, ...]
    attributes: tuple[Mapping[str, str | int | float | bool], ...]
    objects: tuple[tuple[ObjectTrack, ...], ...]
    track_names: tuple[tuple[str, ...], ...]
    depth_m: Tensor | None = None
    masks: Tensor | None = None
    normals: Tensor | None = None
    dynamic: Tensor | None = None
    track_points_px: Tensor | None = None
    track_known: Tensor | None = None
    track_visible: Tensor | None = None
    track_points_world: Tensor | None = None
    track_world_known: Tensor | None = None
    track_query_frames: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by DataLoader)."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that are there, by name."""
        return {item.name: getattr(self, item.name) for item in fields(self) if isinstance(getattr(self, item.name), Tensor)}

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed)


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch. Raises InputError that names the samples when sizes or numbers of frames differ, or a lens distorts (a batch has no place for it:
    switch on `AugmentationConfig.undistort`)."""
    if not samples:
        raise InputError("a batch of no samples; must be at least one")
    height, width = _common_size(samples)
    shape = (len(samples), len(samples[0]))
    intrinsics, has_camera = _intrinsics(samples, shape)
    poses, has_pose = _poses(samples, shape)
    depth = _maps(samples, "depth_m", (height, width), torch.float32)
    return Batch(
        images=_images(samples, (*shape, 3, height, width)),
        intrinsics=intrinsics,
        has_camera=has_camera,
        world_from_camera=poses,
        has_pose=has_pose,
        has_depth=torch.zeros(shape, dtype=torch.bool) if depth is None else (depth > 0).flatten(2).any(-1),
        has_masks=torch.tensor(np.stack([_frames_with_masks(sample) for sample in samples])),
        has_normals=torch.tensor([sample.normals is not None for sample in samples]),
        has_dynamic=torch.tensor([sample.dynamic is not None for sample in samples]),
        times_s=torch.from_numpy(np.stack([np.full(shape[1], np.nan) if item.times_s is None else item.times_s for item in samples])),
        is_metric=torch.tensor([sample.unit == "metre" for sample in samples]),
        datasets=tuple(sample.dataset for sample in samples),
        sequences=tuple(sample.sequence for sample in samples),
        frame_names=tuple(sample.frame_names for sample in samples),
        texts=tuple(sample.text for sample in samples),
        attributes=tuple(sample.attributes for sample in samples),
        objects=tuple(sample.objects for sample in samples),
        track_names=tuple(() if sample.tracks is None else sample.tracks.names for sample in samples),
        depth_m=depth,
        masks=_maps(samples, "masks", (height, width), torch.int32),
        normals=_normals(samples, (*shape, 3, height, width)),
        dynamic=_maps(samples, "dynamic", (height, width), torch.bool),
        **_tracks(samples),
    )


def _frames_with_masks(sample: Sample) -> NDArray[np.bool_]:
    """(T,) which frames' masks are annotated."""
    if sample.masks is None:
        return np.zeros(len(sample), np.bool_)
    return np.ones(len(sample), np.bool_) if sample.mask_known is None else sample.mask_known


def _common_size(samples: Sequence[Sample]) -> tuple[int, int]:
    """(height, width) of all images."""
    height, width = samples[0].images[0].shape[:2]
    for sample in samples:
        if len(sample) != len(samples[0]):
            raise InputError(f"batch: {sample.place()} has {len(sample)} frames, {samples[0].place()} has {len(samples[0])}: must be as many")
        for frame, image in enumerate(sample.images):
            if image.shape[:2] != (height, width):
                sizes = f"{image.shape[1]}x{image.shape[0]}, {samples[0].place(0)} is {width}x{height}"
                raise InputError(f"batch: {sample.place(frame)} is {sizes}: sizes must be equal (set AugmentationConfig.height and width)")
    return height, width


def _images(samples: Sequence[Sample], shape: tuple[int, ...]) -> Tensor:
    images = torch.empty(shape, dtype=torch.uint8)
    planes = images.numpy()
    for row, sample in enumerate(samples):
        for frame, image in enumerate(sample.images):
            cv2.split(image, list(planes[row, frame]))  # writes the planes in place, several times faster than a transposed copy
    return images


def _normals(samples: Sequence[Sample], shape: tuple[int, ...]) -> Tensor | None:
    if all(sample.normals is None for sample in samples):
        return None
    normals = torch.zeros(shape)
    planes = normals.numpy()
    for row, sample in enumerate(samples):
        for frame, values in enumerate(sample.normals or ()):
            cv2.split(values, list(planes[row, frame]))
    return normals


def _maps(samples: Sequence[Sample], name: str, size: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
    values: list[tuple[NDArray, ...] | None] = [getattr(sample, name) for sample in samples]
    if all(value is None for value in values):
        return None
    maps = torch.zeros((len(samples), len(samples[0]), *size), dtype=dtype)
    planes = maps.numpy()
    for row, value in enumerate(values):
        for frame, plane in enumerate(value or ()):
            planes[row, frame] = plane
    return maps


def _intrinsics(samples: Sequence[Sample], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    matrices = np.broadcast_to(np.eye(3), (*shape, 3, 3)).copy()
    known = np.zeros(shape, np.bool_)
    for row, sample in enumerate(samples):
        for frame, camera in enumerate(sample.cameras or ()):
            if camera is None:
                continue
            if camera.distortion_model != "none":
                place = sample.place(frame)
                raise InputError(
                    f"batch: the lens of {place} distorts ({camera.distortion_model}): must be undistorted (AugmentationConfig.undistort)"
                )
            matrices[row, frame], known[row, frame] = camera.matrix, True
    return torch.from_numpy(matrices), torch.from_numpy(known)


def _poses(samples: Sequence[Sample], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    known = np.stack([sample.has_pose for sample in samples])
    poses = np.broadcast_to(np.eye(4), (*shape, 4, 4)).copy()
    for row, sample in enumerate(samples):
        if sample.world_from_camera is not None:
            poses[row, known[row]] = sample.world_from_camera[known[row]]
    return torch.from_numpy(poses), torch.from_numpy(known)


def _tracks(samples: Sequence[Sample]) -> dict[str, Any]:
    """The fields of the tracks; none when no sample has any."""
    tracks = [sample.tracks for sample in samples]
    lengths = [item.num_points for item in tracks if item is not None]
    if not lengths:
        return {}
    batch, frames, most = len(samples), len(samples[0]), max(lengths)
    points, known = np.zeros((batch, frames, most, 2), np.float32), np.zeros((batch, frames, most), np.bool_)
    world, world_known = np.zeros((batch, frames, most, 3), np.float32), np.zeros((batch, frames, most), np.bool_)
    visible = np.zeros((batch, frames, most), np.bool_)
    queries = np.full((batch, most), -1, np.int64)
    for row, item in enumerate(tracks):
        if item is None:
            continue
        count = item.num_points
        known[row, :, :count] = _filled(item.points_px, points[row, :, :count])
        visible[row, :, :count] = item.visible
        if item.points_world is not None:
            world_known[row, :, :count] = _filled(item.points_world, world[row, :, :count])
        if item.query_frames is not None:
            queries[row, :count] = item.query_frames
    found = {"track_points_px": points, "track_known": known, "track_visible": visible, "track_query_frames": queries}
    if any(item is not None and item.points_world is not None for item in tracks):
        found |= {"track_points_world": world, "track_world_known": world_known}
    return {name: torch.from_numpy(values) for name, values in found.items()}


def _filled(values: NDArray[np.float32], into: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Copy the known points of (T, N, d) `values`, and say which they are (T, N): NaN times a weight of 0 would still be NaN."""
    known = np.asarray(np.isfinite(values).all(-1), np.bool_)
    into[known] = values[known]
    return known
