"""One picture that shows what samples hold: a block for each sample, with a column for each frame and a row for each kind of ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import TrackSet
from perception.viz.colors import ORANGE, SKY, Color, object_color
from perception.viz.overlays import draw_box, draw_tracks
from perception.viz.text import draw_label
from perception_training.data.sample import Sample

Image = NDArray[np.uint8]

_PAPER = (24, 26, 30)
_TITLE_HEIGHT_PX = 24
_TITLE_CHARACTER_PX = 6.5
_GAP_PX = 4
_MAX_TRACKS = 48
_DEPTH_PERCENTILES = (2.0, 98.0)
_MAX_ASPECT = 1.6
_TINT = 0.6


def contact_sheet(samples: Iterable[Sample], max_frames: int = 6, tile_px: int = 192) -> Image:
    """Picture (height, width, 3) uint8 RGB of some samples, which may differ in size and in what they hold.

    Of each sample up to `max_frames` evenly spaced frames, `tile_px` wide: colour, depth (near red, far blue, unknown black), masks by id,
    what moves, normals (x red, y green, z blue), objects in sight with their bounds, and tracks with the way they came (hollow: hidden).
    Raises InputError when there are no samples.
    """
    if max_frames < 1 or tile_px < 32:
        raise InputError(f"contact sheet of {max_frames} frames of {tile_px} px: must be at least 1 frame of 32 px")
    blocks = [_block(sample, max_frames, tile_px) for sample in samples]
    if not blocks:
        raise InputError("contact sheet: there are no samples; must be at least one")
    width = max(block.shape[1] for block in blocks)
    sheet = np.full((sum(block.shape[0] for block in blocks), width, 3), _PAPER, np.uint8)
    top = 0
    for block in blocks:
        sheet[top : top + block.shape[0], : block.shape[1]] = block
        top += block.shape[0]
    return sheet


def _block(sample: Sample, max_frames: int, tile_px: int) -> Image:
    """Title and rows of one sample."""
    frames = np.unique(np.linspace(0, len(sample) - 1, min(max_frames, len(sample))).round().astype(int)).tolist()
    aspects = [sample.images[frame].shape[0] / sample.images[frame].shape[1] for frame in frames]
    height = round(tile_px * float(np.clip(np.median(aspects), 1 / _MAX_ASPECT, _MAX_ASPECT)))
    rows = _rows(sample, frames)
    width = len(frames) * (tile_px + _GAP_PX) - _GAP_PX
    block = np.full((_TITLE_HEIGHT_PX + len(rows) * (height + _GAP_PX) + _GAP_PX, width, 3), _PAPER, np.uint8)
    title = _title(sample)
    room = max(8, int(width / _TITLE_CHARACTER_PX) - 3)
    title = title if len(title) <= room else title[: room - 1] + "…"
    draw_label(block[: _TITLE_HEIGHT_PX - _GAP_PX], title, (0.0, float(_TITLE_HEIGHT_PX)), ORANGE)
    top = _TITLE_HEIGHT_PX
    for row, (caption, paint) in enumerate(rows):
        for column, frame in enumerate(frames):
            left = column * (tile_px + _GAP_PX)
            tile = block[top : top + height, left : left + tile_px]
            _paste(tile, sample.images[frame].shape[:2], lambda size, frame=frame, paint=paint: paint(frame, size))  # type: ignore[misc]
            if column == 0 or row == 0:
                text = " · ".join(part for part in (caption if column == 0 else "", sample.frame_names[frame] if row == 0 else "") if part)
                draw_label(tile, text, (0.0, float(height)), SKY)
        top += height + _GAP_PX
    return block


def _title(sample: Sample) -> str:
    parts = [sample.place(), f"{len(sample)} frames", f"{sample.images[0].shape[1]}x{sample.images[0].shape[0]}"]
    if sample.world_from_camera is not None:
        parts.append(f"{int(sample.has_pose.sum())} poses")
    if sample.tracks is not None:
        parts.append(f"{sample.tracks.num_points} tracks")
    return " · ".join([*parts, sample.text] if sample.text else parts)


def _paste(tile: Image, image_size: tuple[int, int], paint: Callable[[tuple[int, int]], Image]) -> None:
    """Fit a picture of the image's aspect into the middle of the tile."""
    scale = min(tile.shape[0] / image_size[0], tile.shape[1] / image_size[1])
    height, width = (max(1, min(limit, round(side * scale))) for side, limit in zip(image_size, tile.shape[:2], strict=True))
    top, left = (tile.shape[0] - height) // 2, (tile.shape[1] - width) // 2
    tile[top : top + height, left : left + width] = paint((height, width))


Painter = Callable[[int, tuple[int, int]], Image]
"""(frame, (height, width)) → picture of that size."""


def _rows(sample: Sample, frames: list[int]) -> list[tuple[str, Painter]]:
    """Caption and painter of each row that the sample has something for."""
    rows: list[tuple[str, Painter]] = [("image", lambda frame, size: _shrunk(sample.images[frame], size))]
    depth, masks, normals, dynamic = sample.depth_m, sample.masks, sample.normals, sample.dynamic
    if depth is not None:
        low, high = _depth_range([depth[frame] for frame in frames])
        unit = " m" if sample.unit == "metre" else ""
        rows.append((f"depth {low:.2f} to {high:.2f}{unit}", lambda frame, size: depth_colors(_nearest(depth[frame], size), low, high)))
    if masks is not None:
        ids = np.unique(np.concatenate([np.unique(masks[frame]) for frame in frames]))
        caption = f"{int((ids > 0).sum())} ids"
        rows.append((caption, lambda frame, size: mask_colors(_shrunk(sample.images[frame], size), _nearest(masks[frame], size))))
    if dynamic is not None:
        rows.append(
            ("moving", lambda frame, size: mask_colors(_shrunk(sample.images[frame], size), _nearest(dynamic[frame].astype(np.int32) * 2, size)))
        )
    if normals is not None:
        rows.append(("normals", lambda frame, size: normal_colors(_nearest(normals[frame], size))))
    if sample.cameras is not None and any(item.bounds is not None for item in sample.objects):
        rows.append(("objects", lambda frame, size: _with_boxes(sample, frame, size)))
    if sample.tracks is not None and sample.tracks.num_points:
        rows.append(("tracks", lambda frame, size: _with_tracks(sample, frames, frame, size)))
    return rows


def _shrunk(image: Image, size: tuple[int, int]) -> Image:
    smaller = image.shape[0] >= size[0]
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR), np.uint8)


def _nearest(values: NDArray, size: tuple[int, int]) -> NDArray:
    """A map at another size without mixing neighbours, which may be unknown or another object."""
    row = np.minimum(((np.arange(size[0]) + 0.5) * values.shape[0] / size[0]).astype(int), values.shape[0] - 1)
    column = np.minimum(((np.arange(size[1]) + 0.5) * values.shape[1] / size[1]).astype(int), values.shape[1] - 1)
    return values[row[:, None], column]


def _depth_range(maps: list[NDArray[np.float32]]) -> tuple[float, float]:
    """Range of the known depths without the outermost 2 %; (0, 1) when nothing is known."""
    known = np.concatenate([depth[depth > 0] for depth in maps])
    if not len(known):
        return 0.0, 1.0
    low, high = np.percentile(known, _DEPTH_PERCENTILES)
    return float(low), float(high)


def depth_colors(depth: NDArray[np.float32], low: float, high: float) -> Image:
    """(height, width, 3) RGB of a depth map: red at `low`, blue at `high`, black where the depth is 0."""
    level = 1 - np.clip((depth - low) / max(high - low, 1e-9), 0, 1)
    colors = cv2.cvtColor(cv2.applyColorMap((255 * level).round().astype(np.uint8), cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    colors[depth <= 0] = 0
    return np.asarray(colors, np.uint8)


def mask_colors(image: Image, ids: NDArray[np.int32]) -> Image:
    """The image in grey, tinted with a colour for each id above 0."""
    grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    for value in np.unique(ids[ids > 0]):
        inside = ids == value
        grey[inside] = (1 - _TINT) * grey[inside] + _TINT * np.array(object_color(int(value) - 1), float)
    return grey.round().astype(np.uint8)


def normal_colors(normals: NDArray[np.float32]) -> Image:
    """Normals in camera axes as colours: x to the right is red, y up is green, z towards the camera is blue; black where unknown."""
    known = (normals != 0).any(axis=-1, keepdims=True)
    level = 0.5 + 0.5 * normals * np.array([1, -1, -1], np.float32)
    return np.where(known, (255 * np.clip(level, 0, 1)).round(), 0).astype(np.uint8)


def _with_boxes(sample: Sample, frame: int, size: tuple[int, int]) -> Image:
    canvas = _shrunk(sample.images[frame], size)
    camera = None if sample.cameras is None else sample.cameras[frame]
    for index, item in enumerate(sample.objects):
        pose = item.camera_from_object[frame]
        hidden = sample.masks is not None and item.mask_id > 0 and not (sample.masks[frame] == item.mask_id).any()
        if camera is not None and item.bounds is not None and np.isfinite(pose).all() and not hidden:
            color: Color = object_color((item.mask_id or index + 1) - 1)
            canvas = draw_box(canvas, pose, item.bounds, camera.resized(size[1], size[0]), color)
    return canvas


def _with_tracks(sample: Sample, frames: list[int], frame: int, size: tuple[int, int]) -> Image:
    """The tracks at this frame with their way through the frames of the sheet before it."""
    assert sample.tracks is not None
    num = sample.tracks.num_points
    chosen = np.unique(np.linspace(0, num - 1, min(num, _MAX_TRACKS)).round().astype(int))
    sets = []
    for shown in frames[: frames.index(frame) + 1]:
        height, width = sample.images[shown].shape[:2]
        scale = np.array([size[1] / width, size[0] / height])
        points = ((sample.tracks.points_px[shown, chosen] + 0.5) * scale - 0.5).astype(np.float32)
        visible = sample.tracks.visible[shown, chosen] & np.isfinite(points).all(axis=1)
        sets.append(TrackSet(chosen, points, visible, np.ones(len(chosen), np.float32), shown))
    return draw_tracks(_shrunk(sample.images[frame], size), sets[-1], sets[:-1])
