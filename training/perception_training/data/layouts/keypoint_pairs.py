"""Pairs of images with common keypoints, as SPair-71k, PF-PASCAL and their kin annotate semantic correspondence."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io.images import read_image, read_label_image
from perception_training.data.layouts.image_sizes import image_size
from perception_training.data.sample import ObjectTrack, Tracks
from perception_training.data.sequences import UNKNOWN_POSE, FrameRecord, RecordedSequence

_SLACK_PX = 1.0
"""Keypoints and corners of boxes may lie this far outside: some sets count pixels from 1, or place points on the rim."""

VOID = 255
"""Class id of pixels that PASCAL VOC leaves undecided."""


@dataclass(frozen=True, eq=False)
class KeypointPair:
    """What is annotated of a pair.

    annotation: the file that says it, named in errors · images: source and target · points_px (2, N, 2) common keypoints in both, as stored ·
    keypoint_names (N,), or empty · boxes_px (2, 4) of the object, or None · category · class_id: its value in the class maps (0: no maps) ·
    class_maps: two PNGs with class ids, or empty · sizes: (width, height) of both images where the file states them · mirrored: both images
    are to be flipped left to right · attributes of the pair.
    """

    annotation: Path
    images: tuple[Path, Path]
    points_px: NDArray[np.float64]
    category: str
    keypoint_names: tuple[str, ...] = ()
    boxes_px: NDArray[np.float64] | None = None
    class_id: int = 0
    class_maps: tuple[Path, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    mirrored: bool = False
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def keypoint_pair_sequence(dataset: str, name: str, pair: KeypointPair) -> RecordedSequence:
    """A sequence of two frames whose tracks are the common keypoints and whose one object carries the boxes (no poses, no intrinsics).

    When it is loaded: InputError that names the annotation when a keypoint or box lies outside its image or a size is another than stated.
    """
    if pair.mirrored:
        pair = _mirrored(pair)
    records = tuple(
        FrameRecord(
            name=image.stem,
            source=image,
            read_image=functools.partial(_read_image, image, pair.mirrored),
            read_mask=functools.partial(_read_class_map, pair.class_maps[side], pair.mirrored) if pair.class_maps else None,
        )
        for side, image in enumerate(pair.images)
    )
    target = ObjectTrack(
        name=pair.category,
        camera_from_object=np.stack([UNKNOWN_POSE, UNKNOWN_POSE]),
        mask_id=pair.class_id if pair.class_maps else 0,
        boxes_px=pair.boxes_px,
    )
    return RecordedSequence(
        dataset=dataset,
        name=name,
        records=records,
        objects=(target,),
        read_tracks=functools.partial(_tracks, pair),
        text=pair.category,
        attributes=pair.attributes,
    )


def _tracks(pair: KeypointPair) -> Tracks:
    for side, image in enumerate(pair.images):
        size = image_size(image)
        if pair.sizes and pair.sizes[side] != size:
            raise InputError(
                f"annotation {pair.annotation}: says that {image} is {'x'.join(map(str, pair.sizes[side]))}, but it is {size[0]}x{size[1]}"
            )
        _check_inside(f"annotation {pair.annotation}: keypoint", pair.points_px[side], size, image)
        if pair.boxes_px is not None:
            _check_inside(f"annotation {pair.annotation}: corner of the box", pair.boxes_px[side].reshape(2, 2), size, image)
    return Tracks(pair.points_px.astype(np.float32), np.ones(pair.points_px.shape[:2], np.bool_), names=pair.keypoint_names)


def _check_inside(what: str, points_px: NDArray[np.float64], size: tuple[int, int], image: Path) -> None:
    outside = ~((points_px >= -_SLACK_PX) & (points_px <= np.array(size) - 1 + _SLACK_PX)).all(axis=1)
    if outside.any():
        index = int(np.flatnonzero(outside)[0])
        raise InputError(f"{what} {index} at {points_px[index].tolist()} lies outside {image}, which is {size[0]}x{size[1]}")


def _mirrored(pair: KeypointPair) -> KeypointPair:
    """The pair as both images show it after flipping left to right."""
    last = np.array([image_size(image)[0] - 1 for image in pair.images], np.float64)
    points = pair.points_px.copy()
    points[..., 0] = last[:, None] - points[..., 0]
    boxes = pair.boxes_px
    if boxes is not None:
        boxes = np.stack([last - boxes[:, 2], boxes[:, 1], last - boxes[:, 0], boxes[:, 3]], axis=1)
    return replace(pair, points_px=points, boxes_px=boxes)


def _read_image(path: Path, mirrored: bool) -> NDArray[np.uint8]:
    image = read_image(path)
    return np.ascontiguousarray(image[:, ::-1]) if mirrored else image


def _read_class_map(path: Path, mirrored: bool) -> NDArray[np.int32]:
    ids = read_label_image(path)
    ids = np.where(ids == VOID, 0, ids).astype(np.int32)
    return np.ascontiguousarray(ids[:, ::-1]) if mirrored else ids
