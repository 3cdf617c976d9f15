"""What crop, resize, flip and rotation about the optical axis do to a camera: exact for every lens.

A `View` is the image plane of one frame after such changes: pixel = centre + focal * lens(axes @ (x, y) / z), where (x, y, z) are the camera axes of
the original frame, and `axes` is a rotation or reflection of their first two. OpenCV's lens models commute with these, if the tangential coefficients
turn along, so the map between the old and the new pixels is affine also for distorted images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera


@dataclass(frozen=True, eq=False)
class View:
    """size (width, height) · focal_px (2,), of 1 px where the camera is unknown · centre_px (2,) · axes (2, 2) new camera axes from old ones."""

    size: tuple[int, int]
    focal_px: NDArray[np.float64]
    centre_px: NDArray[np.float64]
    axes: NDArray[np.float64]

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right have changed places."""
        return bool(np.linalg.det(self.axes) < 0)


def view_of(camera: Camera | None, width: int, height: int) -> View:
    """The unchanged view of a frame."""
    if camera is None:
        return View((width, height), np.ones(2), np.array([(width - 1) / 2, (height - 1) / 2]), np.eye(2))
    return View((width, height), np.array([camera.fx, camera.fy]), np.array([camera.cx, camera.cy]), np.eye(2))


def cropped(view: View, left: int, top: int, width: int, height: int) -> View:
    """The window of this size whose first pixel is (left, top)."""
    return replace(view, size=(width, height), centre_px=view.centre_px - (left, top))


def resized(view: View, width: int, height: int) -> View:
    """Scaled to this size (pixel centres at integers, as `Camera.resized`)."""
    scale = np.array([width, height]) / view.size
    return replace(view, size=(width, height), focal_px=view.focal_px * scale, centre_px=(view.centre_px + 0.5) * scale - 0.5)


def flipped(view: View) -> View:
    """Left and right exchanged."""
    centre = np.array([view.size[0] - 1 - view.centre_px[0], view.centre_px[1]])
    return replace(view, centre_px=centre, axes=np.diag([-1.0, 1.0]) @ view.axes)


def quarter_turned(view: View, num_turns: int) -> View:
    """Turned counter-clockwise on the screen by `num_turns` times 90 degrees, exactly, as np.rot90 does."""
    for _ in range(num_turns % 4):
        width, height = view.size
        centre = np.array([view.centre_px[1], width - 1 - view.centre_px[0]])
        view = View((height, width), view.focal_px[::-1].copy(), centre, np.array([[0.0, 1.0], [-1.0, 0.0]]) @ view.axes)
    return view


def turned(view: View, angle_deg: float, scale: float, shift_px: tuple[float, float]) -> View:
    """Turned clockwise on the screen about the middle of the image, which then moves by `shift_px`, and scaled; the size stays.

    The camera turns about its optical axis: with fx != fy the picture is turned in the ray's angles, so that it stays that of a pinhole camera.
    """
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    focal = view.focal_px * scale
    middle = (np.array(view.size) - 1) / 2
    centre = middle + shift_px + (focal[:, None] * turn / view.focal_px) @ (view.centre_px - middle)
    return View(view.size, focal, centre, turn @ view.axes)


def new_from_old_px(old: View, new: View) -> NDArray[np.float64]:
    """(2, 3) affine map of pixels. `old` is an unchanged view."""
    linear = new.focal_px[:, None] * new.axes / old.focal_px
    return np.concatenate([linear, (new.centre_px - linear @ old.centre_px)[:, None]], axis=1)


def camera_of(view: View, old: Camera) -> Camera:
    """The camera of a view of a frame whose camera was `old`; the tangential part of the lens turns with the axes."""
    distortion = list(old.distortion)
    if old.distortion_model in ("plumb_bob", "rational_polynomial"):
        # With q = (p2, p1) the lens shifts a point v by q |v|^2 + 2 v (q . v): q is a vector in the image plane.
        distortion[3], distortion[2] = (view.axes @ (distortion[3], distortion[2])).tolist()
    focal, centre = view.focal_px.tolist(), view.centre_px.tolist()
    return Camera(*view.size, focal[0], focal[1], centre[0], centre[1], old.distortion_model, tuple(distortion))
