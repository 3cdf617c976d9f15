"""What was found, drawn over the image: poses, matches, tracks, messages. All functions return a new image and leave the given one alone.

Images are (height, width, 3) uint8 RGB, points are (x, y) pixels with pixel centres at integers, colours are RGB.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera, PoseEstimate, TrackSet
from perception.geometry.camera import project
from perception.geometry.se3 import transform_points
from perception.viz.colors import BLACK, GREEN, PALETTE, VERMILION, WHITE, Color
from perception.viz.text import draw_label

Image = NDArray[np.uint8]

_NEAR_M = 1e-3
_SUBPIXEL_BITS = 4
_SAMPLES_PER_EDGE = 17
_CORNERS = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
_EDGES = [(a, a | bit) for bit in (1, 2, 4) for a in range(8) if not a & bit]
_AXIS_COLORS: tuple[Color, ...] = ((230, 60, 60), (70, 200, 90), (70, 120, 255))


def draw_pose(image: Image, estimate: PoseEstimate, camera: Camera, color: Color = PALETTE[0], label: bool = True, points: bool = True) -> Image:
    """The object's bounding box, its axes, the inlier points and a label with name, score and inliers."""
    canvas = image.copy()
    if points:
        _draw_dots(canvas, estimate.inlier_points_px, color)
    corners_px = _draw_box_on(canvas, estimate.camera_from_object, estimate.bounds_object, camera, color, 1.0)
    _draw_axes(canvas, estimate.camera_from_object, estimate.bounds_object, camera)
    if label:
        text = f"{estimate.object_name} · score {estimate.score:.2f} · inliers {estimate.num_inliers}/{estimate.num_matches}"
        height, width = canvas.shape[:2]
        inside = corners_px[((corners_px >= 0) & (corners_px < (width, height))).all(axis=1)] if len(corners_px) else corners_px
        anchor = inside.min(axis=0) if len(inside) else np.array([0.0, 0.0])
        draw_label(canvas, text, (float(anchor[0]), float(anchor[1])), color)
    return canvas


def draw_box(image: Image, camera_from_object: NDArray, bounds_object: NDArray, camera: Camera, color: Color = WHITE, weight: float = 0.6) -> Image:
    """A bounding box alone, such as the true pose. bounds_object (2, 3): lower and upper corner in metres; weight: line width in `draw_pose`'s."""
    canvas = image.copy()
    _draw_box_on(canvas, camera_from_object, bounds_object, camera, color, weight)
    return canvas


def draw_matches(
    image_a: Image, image_b: Image, points_a_px: NDArray, points_b_px: NDArray, inliers: NDArray[np.bool_] | None = None, max_matches: int = 200
) -> Image:
    """Both images side by side with a line for each match: inliers green, outliers red and beneath. At most `max_matches` lines, evenly thinned.

    points_a_px, points_b_px (num, 2) · inliers (num,) bool, None: all. The lower image is padded with black.
    """
    height = max(image_a.shape[0], image_b.shape[0])
    shift = np.array([image_a.shape[1], 0.0])
    canvas = np.zeros((height, image_a.shape[1] + image_b.shape[1], 3), np.uint8)
    canvas[: image_a.shape[0], : image_a.shape[1]] = image_a
    canvas[: image_b.shape[0], image_a.shape[1] :] = image_b
    num = len(points_a_px)
    chosen = np.unique(np.linspace(0, num - 1, min(num, max_matches)).round().astype(int)) if num else np.zeros(0, int)
    good = np.ones(num, bool) if inliers is None else np.asarray(inliers, bool)
    for wanted, color in ((False, VERMILION), (True, GREEN)):
        for index in chosen[good[chosen] == wanted]:
            _draw_polyline(canvas, np.stack([points_a_px[index], points_b_px[index] + shift]), color, _line_width(canvas) * 0.5)
    for points in (np.asarray(points_a_px).reshape(-1, 2), np.asarray(points_b_px).reshape(-1, 2) + shift):
        _draw_dots(canvas, points[chosen], WHITE)
    return canvas


def draw_tracks(image: Image, tracks: TrackSet, history: Sequence[TrackSet] = ()) -> Image:
    """Tracked points as filled dots (hollow while not visible), with the way each came through `history` (oldest first)."""
    canvas = image.copy()
    width = _line_width(canvas)
    trail: dict[int, list[NDArray]] = {}
    for past in (*history, tracks):
        for point_id, point, visible in zip(past.ids, past.points_px, past.visible, strict=True):
            if visible:
                trail.setdefault(int(point_id), []).append(point)
    for point_id, points in trail.items():
        if len(points) > 1:
            _draw_polyline(canvas, np.stack(points), PALETTE[point_id % len(PALETTE)], width * 0.6)
    for point_id, point, visible in zip(tracks.ids, tracks.points_px, tracks.visible, strict=True):
        _draw_circle(canvas, point, 2.0 * width, PALETTE[int(point_id) % len(PALETTE)], filled=bool(visible))
    return canvas


def draw_message(image: Image, text: str, color: Color = VERMILION) -> Image:
    """A banner at the top, such as the reason why there is no pose. Long text is wrapped."""
    canvas = image.copy()
    draw_label(canvas, text, (0.0, 0.0), color)
    return canvas


def _line_width(image: Image) -> float:
    """Line width that looks the same at every resolution: 2 px at a height of 480."""
    return max(1.0, image.shape[0] / 240.0)


def _draw_box_on(canvas: Image, camera_from_object: NDArray, bounds_object: NDArray, camera: Camera, color: Color, weight: float) -> NDArray:
    """Draws the twelve edges, the far ones first and thinner. Returns the corners in front of the camera (num, 2)."""
    lower, upper = np.asarray(bounds_object, np.float64)
    corners = transform_points(np.asarray(camera_from_object, np.float64), lower + _CORNERS * (upper - lower))
    edges = sorted(_EDGES, key=lambda edge: -(corners[edge[0]] + corners[edge[1]])[2])
    for rank, (a, b) in enumerate(edges):
        _draw_edge(canvas, corners[a], corners[b], camera, color, _line_width(canvas) * weight * (0.6 if rank < 3 else 1.0))
    visible = corners[_in_view(corners, camera)]
    return project(visible, camera) if len(visible) else np.zeros((0, 2))


def _draw_axes(canvas: Image, camera_from_object: NDArray, bounds_object: NDArray, camera: Camera) -> None:
    """The object frame's x, y, z in red, green, blue from its origin, half as long as the object's middle extent; the far one first."""
    length_m = 0.5 * float(np.median(np.asarray(bounds_object, np.float64)[1] - np.asarray(bounds_object, np.float64)[0]))
    points = transform_points(np.asarray(camera_from_object, np.float64), np.concatenate([np.zeros((1, 3)), length_m * np.eye(3)]))
    for axis in np.argsort(-points[1:, 2]):
        _draw_edge(canvas, points[0], points[1 + axis], camera, _AXIS_COLORS[axis], 1.25 * _line_width(canvas))


def _draw_edge(canvas: Image, start: NDArray, end: NDArray, camera: Camera, color: Color, width: float) -> None:
    """A straight edge in camera coordinates. Sampled, because lens distortion bends it, and cut where it leaves the view."""
    num_samples = 2 if camera.distortion_model == "none" else _SAMPLES_PER_EDGE
    points = start + np.linspace(0.0, 1.0, num_samples)[:, None] * (end - start)
    if (start[2] < _NEAR_M) != (end[2] < _NEAR_M):
        crossing = start + (2 * _NEAR_M - start[2]) / (end[2] - start[2]) * (end - start)
        points = np.concatenate([points[points[:, 2] < _NEAR_M], crossing[None], points[points[:, 2] >= _NEAR_M]])
        points = points if start[2] < _NEAR_M else np.concatenate([points[points[:, 2] >= _NEAR_M], crossing[None]])
    seen = _in_view(points, camera)
    for run in np.split(np.arange(len(points)), np.flatnonzero(np.diff(seen.astype(int))) + 1):
        if len(run) > 1 and seen[run[0]]:
            _draw_polyline(canvas, project(points[run], camera), color, width)


def _in_view(points_camera: NDArray, camera: Camera) -> NDArray[np.bool_]:
    """In front of the camera and, for polynomial distortion, near enough to the axis that the polynomial has not turned back."""
    seen = points_camera[..., 2] >= _NEAR_M
    if camera.distortion_model in ("plumb_bob", "rational_polynomial"):
        reach = 2.0 * np.hypot(max(camera.cx, camera.width - camera.cx) / camera.fx, max(camera.cy, camera.height - camera.cy) / camera.fy)
        seen &= np.hypot(points_camera[..., 0], points_camera[..., 1]) <= reach * np.abs(points_camera[..., 2])
    return seen


def _draw_polyline(canvas: Image, points_px: NDArray, color: Color, width: float) -> None:
    """Anti-aliased line with a dark rim, so that it stands out on any ground."""
    limit, scale = 8.0 * max(canvas.shape), 1 << _SUBPIXEL_BITS
    pairs = [_clip_to_box(start, end, -limit, limit) for start, end in itertools.pairwise(points_px)]
    segments = [np.round(np.stack(pair) * scale).astype(np.int32) for pair in pairs if pair is not None]
    for line_color, line_width in ((BLACK, width + 1.5), (color, width)):
        cv2.polylines(canvas, segments, False, line_color, max(1, round(line_width)), cv2.LINE_AA, _SUBPIXEL_BITS)


def _clip_to_box(start: NDArray, end: NDArray, low: float, high: float) -> tuple[NDArray, NDArray] | None:
    """The part of a segment inside a square (Liang and Barsky 1984): OpenCV overflows on large coordinates. None when outside or not finite."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        return None
    delta, enter, leave = end - start, 0.0, 1.0
    for axis in range(2):
        for direction, distance in ((-delta[axis], start[axis] - low), (delta[axis], high - start[axis])):
            if direction == 0.0:
                if distance < 0.0:
                    return None
            elif direction < 0.0:
                enter = max(enter, distance / direction)
            else:
                leave = min(leave, distance / direction)
    return None if enter > leave else (start + enter * delta, start + leave * delta)


def _draw_dots(canvas: Image, points_px: NDArray, color: Color) -> None:
    radius = max(1.0, 0.6 * _line_width(canvas))
    for point in np.asarray(points_px).reshape(-1, 2):
        _draw_circle(canvas, point, radius, color, filled=True)


def _draw_circle(canvas: Image, point_px: NDArray, radius_px: float, color: Color, filled: bool) -> None:
    height, width = canvas.shape[:2]
    if not (np.isfinite(point_px).all() and -radius_px <= point_px[0] < width + radius_px and -radius_px <= point_px[1] < height + radius_px):
        return
    scale = 1 << _SUBPIXEL_BITS
    centre = (round(float(point_px[0]) * scale), round(float(point_px[1]) * scale))
    if filled:
        cv2.circle(canvas, centre, round((radius_px + 0.75) * scale), BLACK, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.circle(canvas, centre, round(radius_px * scale), color, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)
    else:
        cv2.circle(canvas, centre, round(radius_px * scale), color, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
