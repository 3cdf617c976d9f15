"""Where in a frame an object's templates fit best: first guesses of its pose, at any roll and size.

Each point of a template votes where it finds something alike in an image pyramid, the best within a cell each way (as the spread responses of
LINE-MOD, Hinterstoisser et al., ICCV 2011, which forgive what lies between two views), and says nothing where it does not, so that a part that is
hidden costs its own votes only. What a template gets is counted in its own standard deviations over the frame, as some fit a little everywhere. The
best are looked at again on a lattice that is twice as fine, where less is forgiven.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from perception.core.devices import multiplies_bfloat16
from perception.core.types import Camera, FeatureMap, Frame
from perception.geometry.se3 import from_rotation_translation
from perception.ops.sampling import sample_map
from perception.pipelines.view_templates import OBJECT_PX, SIDE, SPACING_PX, Templates
from perception.pipelines.zoomed_view import axis_towards, ray_of

_SCALE_STEP = math.sqrt(0.5)
_LEAST_SIMILARITY = 0.1
"""Votes begin above this."""
_PLACES_OF_EACH = 2
_LOOKED_AT_AGAIN = 200
_SHIFTS = torch.arange(-1, 3)
"""Of a template in the second look, in fine cells from the one above and left of its place."""
_SMALLEST_SHARE = 0.02
"""Of the mean variance; directions of descriptor space with less are not blown up further."""


@dataclass(frozen=True, eq=False)
class TemplateMatch:
    """A first guess: camera_from_object (4, 4) how well the template fits, its middle in the frame (2,) and the scale."""

    camera_from_object: NDArray[np.float64]
    score: float
    centre_px: NDArray[np.float64]
    scale: float


@dataclass(frozen=True)
class _Candidate:
    """A template on level `level` of the pyramid, its middle at (row, col) of the coarse lattice."""

    score: float
    template: int
    level: int
    row: float
    col: float


def pyramid(frame: Frame, features: Callable[[Frame], FeatureMap], num_scales: int, largest: float = 1.0) -> list[tuple[FeatureMap, float]]:
    """Maps of the frame at `num_scales` scales, each smaller than the one before by the root of two, the first at `largest`."""
    found = []
    for level in range(num_scales):
        scale = largest * _SCALE_STEP**level
        size = max(1, round(frame.image.shape[1] * scale)), max(1, round(frame.image.shape[0] * scale))
        if min(size) < OBJECT_PX:
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
    if not maps:
        return []  # the frame is smaller than a template
    cells = [_at_places(feature_map, SPACING_PX) for feature_map, _ in maps]
    whitening = _Whitening(torch.cat([item.flatten(1) for item in cells], dim=1))
    descriptors = whitening(templates.descriptors.float().T).T
    votes = [_votes(templates, descriptors, whitening(item)) for item in cells]
    everywhere = torch.cat([item.flatten(1) for item in votes], dim=1)
    mean, deviation = everywhere.mean(1), everywhere.std(1).clamp(min=1e-6)
    standard = [(item - mean[:, None, None]) / deviation[:, None, None] for item in votes]
    if allowed is not None:
        standard = [item.masked_fill(~_within(allowed, item.shape[1:]), -math.inf) for item in standard]
    fine = [whitening(_at_places(feature_map, SPACING_PX // 2)) for feature_map, _ in maps]
    again = _second_look(templates, descriptors, fine, _best(standard, _LOOKED_AT_AGAIN))
    again = [replace(item, score=(item.score - float(mean[item.template])) / float(deviation[item.template])) for item in again]
    found: list[TemplateMatch] = []
    for item in sorted(again, key=lambda item: item.score, reverse=True):
        if len(found) == num:
            break
        scale = maps[item.level][1]
        centre = (np.array([item.col, item.row]) + 0.5) * SPACING_PX / scale - 0.5
        match = TemplateMatch(_guess(templates, item.template, centre, scale, camera), item.score, centre, scale)
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

    def __call__(self, descriptors: torch.Tensor) -> torch.Tensor:
        """(dim, ...), of unit length."""
        white = self._matrix @ (descriptors.flatten(1) - self._mean[:, None])
        return functional.normalize(white, dim=0).view(descriptors.shape)


def _votes(templates: Templates, descriptors: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """What points of each template get at each place on average (num, rows, cols), from their descriptors (points, dim) and those of the frame
    (dim, rows, cols).

    Only every second point of a template is asked, as the black squares of a chessboard.
    """
    dtype = torch.bfloat16 if multiplies_bfloat16(cells.device) else torch.float32
    _, rows, cols = cells.shape
    descriptors, flat = descriptors.to(dtype), cells.flatten(1).to(dtype)
    starts = torch.searchsorted(templates.place, torch.arange(SIDE**2 + 1, dtype=torch.int32)).tolist()
    votes, num_asked = torch.zeros(len(templates), rows, cols), torch.zeros(len(templates))
    for place, (first, last) in enumerate(pairwise(starts)):
        if place % 2:
            continue
        num_asked[templates.template[first:last]] += 1
        down, right = place // SIDE - SIDE // 2, place % SIDE - SIDE // 2
        here = (slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), cols - max(0, right)))
        there = (slice(max(0, down), rows + min(0, down)), slice(max(0, right), cols + min(0, right)))
        if first == last or abs(down) >= rows or abs(right) >= cols:
            continue
        alike = (descriptors[first:last] @ flat).sub_(_LEAST_SIMILARITY).relu_().view(-1, rows, cols)
        spread = _largest_around(_largest_around(alike, 1), 2)
        votes[(slice(None), *here)].index_add_(0, templates.template[first:last], spread[(slice(None), *there)].float())
    return votes.div_(num_asked.clamp(min=1)[:, None, None])


def _largest_around(values: torch.Tensor, dim: int) -> torch.Tensor:
    """The largest of each entry and its neighbours along a dimension of values that are not negative (a max-pooling, which takes torch 20 times as
    long on a CPU)."""
    first, last, num = values.narrow(dim, 0, 1), values.narrow(dim, -1, 1), values.shape[dim]
    wide = torch.cat([first, values, last], dim=dim)
    return torch.maximum(torch.maximum(wide.narrow(dim, 0, num), values), wide.narrow(dim, 2, num))


def _within(allowed: NDArray[np.bool_], shape: torch.Size) -> torch.Tensor:
    """Which places (rows, cols) of a frame lie where objects may."""
    rows, cols = shape
    small = cv2.resize(allowed.astype(np.uint8), (cols, rows), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(small > 0)


def _best(votes: list[torch.Tensor], num: int) -> list[_Candidate]:
    """The places with most votes (num, rows, cols), a few of each template and level."""
    found = []
    for level, item in enumerate(votes):
        best = item.flatten(1).topk(min(_PLACES_OF_EACH, item[0].numel()), dim=1)
        top = best.values.flatten().topk(min(num, best.values.numel()))
        places = best.indices.flatten()[top.indices]
        templates = top.indices // best.values.shape[1]
        for score, template, place in zip(top.values.tolist(), templates.tolist(), places.tolist(), strict=True):
            if score > -math.inf:
                found.append(_Candidate(score, template, level, *map(float, divmod(place, item.shape[2]))))
    return sorted(found, key=lambda item: item.score, reverse=True)[:num]


def _second_look(templates: Templates, descriptors: torch.Tensor, fine: list[torch.Tensor], candidates: list[_Candidate]) -> list[_Candidate]:
    """Each candidate where it fits best nearby, in cells (dim, rows, cols) of half the spacing, with what it gets there."""
    order = templates.template.argsort(stable=True)
    starts = torch.searchsorted(templates.template[order], torch.arange(len(templates) + 1, dtype=torch.int32)).tolist()
    # So wide that every point of a template at every shift, and its neighbours, find a cell.
    around = SIDE + 1
    wide = [functional.pad(item, (around, around + 1, around, around + 1)) for item in fine]
    found = []
    for item in candidates:
        rows = order[starts[item.template] : starts[item.template + 1]]
        place = templates.place[rows].long()
        down, right = 2 * (place // SIDE - SIDE // 2), 2 * (place % SIDE - SIDE // 2)
        top, left = 2 * int(item.row), 2 * int(item.col)
        patch = wide[item.level][:, top : top + 2 * around + 2, left : left + 2 * around + 2]
        alike = (descriptors[rows] @ patch.flatten(1)).sub_(_LEAST_SIMILARITY).relu_().view(-1, *patch.shape[1:])
        spread = _largest_around(_largest_around(alike, 1), 2)
        at_rows, at_cols = ((offset + around)[:, None] + _SHIFTS for offset in (down, right))
        votes = spread[torch.arange(len(rows))[:, None, None], at_rows[:, :, None], at_cols[:, None, :]].mean(0)
        row, col = divmod(int(votes.argmax()), len(_SHIFTS))
        shift_row, shift_col = ((float(_SHIFTS[index]) - 0.5) / 2 for index in (row, col))
        found.append(replace(item, score=float(votes.max()), row=item.row + shift_row, col=item.col + shift_col))
    return found


def _at_places(feature_map: FeatureMap, spacing_px: int) -> torch.Tensor:
    """Descriptors (dim, rows, cols) of a map on a lattice."""
    height, width = feature_map.image_size
    rows, cols = max(1, height // spacing_px), max(1, width // spacing_px)
    x, y = ((torch.arange(num) + 0.5) * spacing_px - 0.5 for num in (cols, rows))
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
