"""Small pictures of an object from all sides and at all rolls, as descriptors, and where in a frame one of them fits best.

What a dense network says of a point changes with roll and scale, so the first look at a frame compares like with like: each reference view is turned
to several rolls and scaled to one small size, its descriptors on a coarse lattice are kept, and the frame is searched for all of them in an image
pyramid. A template counts at every place by the mean similarity of its lattice, which is one convolution and a vote of all its points for one place,
roll and scale (a Hough vote, as in Lowe, IJCV 2004, section 7.3, but without a nearest neighbour that would have to be right).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from perception.core.devices import multiplies_bfloat16
from perception.core.types import Camera, FeatureMap, Frame, ReferenceView
from perception.geometry.se3 import from_rotation_translation
from perception.ops.sampling import sample_map
from perception.pipelines.zoomed_view import axis_towards, ray_of, zoomed_view

SIDE = 5
"""Points along each side of the lattice."""
SPACING_PX = 16
"""Distance of lattice points, in the picture of a template."""
OBJECT_PX = 80
"""Longer side of the object in the picture of a template."""
_CELL_PX = 8
"""Distance of the places at which templates are tried."""
_PICTURE_PX = 128
_MIN_POINTS = 6
_TEMPLATES_AT_ONCE = 64
_PLACES_OF_EACH = 2
_SCALE_STEP = math.sqrt(0.5)
_SMALLEST_SHARE = 0.02
"""Of the mean variance; directions of descriptor space with less are not blown up further."""


@dataclass(frozen=True, eq=False)
class Templates:
    """kernels (num, dim, SIDE, SIDE) float16, unit vectors or zero where the object is not · camera_from_object (num, 4, 4) float64 of the camera
    that looks straight at the template's middle · focal_px (num,) float64 of that camera, for which the object measures OBJECT_PX · view_focal_px
    (num,) float64 of the reference view that it was made from, in whose scale descriptors of the database are."""

    kernels: torch.Tensor
    camera_from_object: torch.Tensor
    focal_px: torch.Tensor
    view_focal_px: torch.Tensor

    def __len__(self) -> int:
        return len(self.kernels)


@dataclass(frozen=True, eq=False)
class TemplateMatch:
    """A first guess: camera_from_object (4, 4) how well the template fits, its middle in the frame (2,) and the scale."""

    camera_from_object: NDArray[np.float64]
    score: float
    centre_px: NDArray[np.float64]
    scale: float


def templates_of(view: ReferenceView, num_rolls: int, features: Callable[[Frame], FeatureMap]) -> Templates | None:
    """A reference view with a mask at `num_rolls` rolls. None when hardly anything of the object is seen."""
    frame = view.frame
    assert frame.mask is not None
    assert frame.camera is not None
    rows, cols = np.nonzero(frame.mask)
    if not len(rows):
        return None
    low, high = np.array([cols.min(), rows.min()]), np.array([cols.max(), rows.max()])
    focal_px = frame.camera.fx * OBJECT_PX / float((high - low).max() + 1)
    image = frame.image.copy()
    image[~frame.mask] = image[frame.mask].mean(axis=0).astype(np.uint8)
    plain = replace(frame, image=image)
    kernels, poses = [], []
    lattice = (np.arange(SIDE) - (SIDE - 1) / 2) * SPACING_PX + (_PICTURE_PX - 1) / 2
    points = np.stack(np.meshgrid(lattice, lattice), axis=-1).reshape(-1, 2).astype(np.float32)
    for roll in range(num_rolls):
        zoomed = zoomed_view(plain, (low + high) / 2, 2 * math.pi * roll / num_rolls, focal_px, (_PICTURE_PX, _PICTURE_PX))
        assert zoomed.frame.mask is not None
        inside = cv2.erode(zoomed.frame.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        found = features(zoomed.frame)
        descriptors = sample_map(found.descriptors.float(), torch.from_numpy(points), found.grid)
        at = np.floor(points).astype(int)
        descriptors[torch.from_numpy(~inside[at[:, 1], at[:, 0]])] = 0
        if (descriptors.norm(dim=1) > 0.5).sum() < _MIN_POINTS:
            continue
        kernels.append(descriptors.T.reshape(-1, SIDE, SIDE).half())
        poses.append(zoomed.zoomed_from_camera @ view.camera_from_object)
    if not kernels:
        return None
    focals = (torch.full((len(kernels),), value, dtype=torch.float64) for value in (focal_px, frame.camera.fx))
    return Templates(torch.stack(kernels), torch.from_numpy(np.stack(poses)), *focals)


def joined(parts: Sequence[Templates]) -> Templates | None:
    """Those of several views as one; None of none."""
    if not parts:
        return None
    return Templates(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Templates)))


def pyramid(frame: Frame, features: Callable[[Frame], FeatureMap], num_scales: int, largest: float = 1.0) -> list[tuple[FeatureMap, float]]:
    """Maps of the frame at `num_scales` scales, each smaller than the one before by the root of two, the first at `largest`."""
    found = []
    for level in range(num_scales):
        scale = largest * _SCALE_STEP**level
        size = max(1, round(frame.image.shape[1] * scale)), max(1, round(frame.image.shape[0] * scale))
        if min(size) < SIDE * SPACING_PX:
            break
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = frame.image if level == 0 and scale == 1 else cv2.resize(frame.image, size, interpolation=interpolation).astype(np.uint8, copy=False)
        found.append((features(Frame(image, frame.time_ns, frame_id=frame.frame_id, source=frame.source)), scale))
    return found


def find_templates(
    templates: Templates, maps: list[tuple[FeatureMap, float]], camera: Camera, num: int, allowed: NDArray[np.bool_] | None = None
) -> list[TemplateMatch]:
    """The `num` most outstanding places, best first, each with another view, roll or place.

    maps: of the `pyramid` of the frame, which comes with each scale · camera: of the frame · allowed (height, width): where objects may lie.
    """
    candidates: list[tuple[float, int, float, float, float]] = []
    cells = [(_at_places(feature_map), scale) for feature_map, scale in maps]
    whitening = _Whitening(torch.cat([item.flatten(1) for item, _ in cells], dim=1))
    kernels = whitening.of_kernels(templates.kernels.float())
    for item, scale in cells:
        score, place = _best_places(kernels, whitening.of_cells(item))
        num_cols = item.shape[2]
        for template, (scores, places) in enumerate(zip(score.tolist(), place.tolist(), strict=True)):
            for value, at in zip(scores, places, strict=True):
                x, y = _CELL_PX * (at % num_cols) + (_CELL_PX - 1) / 2, _CELL_PX * (at // num_cols) + (_CELL_PX - 1) / 2
                candidates.append((value, template, (x + 0.5) / scale - 0.5, (y + 0.5) / scale - 0.5, scale))
    candidates.sort(reverse=True)
    found: list[TemplateMatch] = []
    for value, template, x, y, scale in candidates:
        if len(found) == num:
            break
        if allowed is not None and not allowed[min(int(y), allowed.shape[0] - 1), min(int(x), allowed.shape[1] - 1)]:
            continue
        match = TemplateMatch(_guess(templates, template, np.array([x, y]), scale, camera), value, np.array([x, y]), scale)
        if not any(_same(match, other) for other in found):
            found.append(match)
    return found


class _Whitening:
    """Descriptors relative to those of this very frame: what is common in it says nothing, so directions count by how rarely they vary.

    The linear discriminant of a template against the rest of the picture (Hariharan, Malik and Ramanan, ECCV 2012, for gradient histograms).
    """

    def __init__(self, descriptors: torch.Tensor) -> None:
        """descriptors (dim, num) of the frame."""
        self._mean = descriptors.mean(dim=1)
        variance, basis = torch.linalg.eigh(torch.cov(descriptors) if descriptors.shape[1] > 1 else torch.eye(len(descriptors)))
        self._matrix = (basis / (variance + _SMALLEST_SHARE * variance.mean()).sqrt()).T

    def of_cells(self, cells: torch.Tensor) -> torch.Tensor:
        """(dim, rows, cols), of unit length."""
        return functional.normalize(torch.einsum("ij,jrc->irc", self._matrix, cells - self._mean[:, None, None]), dim=0)

    def of_kernels(self, kernels: torch.Tensor) -> torch.Tensor:
        """(num, dim, SIDE, SIDE), of unit length divided by the root of how many there are, zero where they were."""
        known = kernels.norm(dim=1, keepdim=True) > 0.5
        white = torch.einsum("ij,njab->niab", self._matrix, kernels - self._mean[None, :, None, None])
        return functional.normalize(white, dim=1) * known / known.sum((2, 3), keepdim=True).sqrt()


def _best_places(kernels: torch.Tensor, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each template its best places: what they score and where they are (num, _PLACES_OF_EACH), as flat numbers."""
    dtype = torch.bfloat16 if multiplies_bfloat16(cells.device) else torch.float32
    dilation = SPACING_PX // _CELL_PX
    padding = dilation * (SIDE // 2)
    cells = cells.to(dtype)[None]
    found = []
    for part in kernels.to(dtype).split(_TEMPLATES_AT_ONCE):
        response = functional.conv2d(cells, part, padding=padding, dilation=dilation)[0].float().flatten(1)
        found.append(response.topk(min(_PLACES_OF_EACH, response.shape[1]), dim=1))
    return torch.cat([item.values for item in found]), torch.cat([item.indices for item in found])


def _at_places(feature_map: FeatureMap) -> torch.Tensor:
    """Descriptors (dim, rows, cols) at the places that are tried."""
    height, width = feature_map.image_size
    rows, cols = max(1, height // _CELL_PX), max(1, width // _CELL_PX)
    x, y = torch.arange(cols) * _CELL_PX + (_CELL_PX - 1) / 2, torch.arange(rows) * _CELL_PX + (_CELL_PX - 1) / 2
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    feature_map = feature_map.on_cpu()
    return sample_map(feature_map.descriptors.float(), points, feature_map.grid).T.reshape(-1, rows, cols)


def _guess(templates: Templates, template: int, centre_px: NDArray[np.float64], scale: float, camera: Camera) -> NDArray[np.float64]:
    """The object as in the template, where the frame's camera has its middle at `centre_px` and the frame was scaled to the template's size."""
    pose = templates.camera_from_object[template].numpy().copy()
    pose[:3, 3] *= camera.fx * scale / float(templates.focal_px[template])
    return from_rotation_translation(axis_towards(ray_of(centre_px, camera)).T, np.zeros(3)) @ pose


def _same(one: TemplateMatch, other: TemplateMatch) -> bool:
    """Whether two guesses would be refined to the same pose."""
    near = np.linalg.norm(one.centre_px - other.centre_px) < 0.25 * OBJECT_PX / max(one.scale, other.scale)
    turn = one.camera_from_object[:3, :3] @ other.camera_from_object[:3, :3].T
    return bool(near and np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)) < 0.6 and 0.6 < one.scale / other.scale < 1.7)
