"""Small pictures of an object from all sides and at all rolls, as descriptors: what `template_search` looks for in a frame.

What a dense network says of a point changes with roll and scale, so the first look at a frame compares like with like: each reference view is turned
to several rolls and scaled to one small size, and its descriptors on a coarse lattice are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from perception.core.types import FeatureMap, Frame, ReferenceView
from perception.ops.sampling import sample_map
from perception.pipelines.zoomed_view import zoomed_view

SIDE = 11
"""Points along each side of the lattice."""
SPACING_PX = 16
"""Distance of lattice points in the picture of a template, and of the places at which templates are tried."""
OBJECT_PX = 160
"""Longer side of the object in the picture of a template."""
_PICTURE_PX = 256
_MIN_POINTS = 6


@dataclass(frozen=True, eq=False)
class Templates:
    """descriptors (points, dim) float16, unit vectors · template, place (points,) int32: of which template, and where on the lattice (row * SIDE +
    col; in ascending order) · camera_from_object (num, 4, 4) float64 of the camera that looks straight at the template's middle · focal_px (num,)
    float64 of that camera, for which the object measures OBJECT_PX · view_focal_px (num,) float64 of the reference view that it was made from, in
    whose scale descriptors of the database are."""

    descriptors: torch.Tensor
    template: torch.Tensor
    place: torch.Tensor
    camera_from_object: torch.Tensor
    focal_px: torch.Tensor
    view_focal_px: torch.Tensor

    def __len__(self) -> int:
        return len(self.focal_px)


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
    kept, places, poses = [], [], []
    lattice = (np.arange(SIDE) - (SIDE - 1) / 2) * SPACING_PX + (_PICTURE_PX - 1) / 2
    points = np.stack(np.meshgrid(lattice, lattice), axis=-1).reshape(-1, 2).astype(np.float32)
    for roll in range(num_rolls):
        zoomed = zoomed_view(plain, (low + high) / 2, 2 * math.pi * roll / num_rolls, focal_px, (_PICTURE_PX, _PICTURE_PX))
        assert zoomed.frame.mask is not None
        found = features(zoomed.frame)
        descriptors = sample_map(found.descriptors.float(), torch.from_numpy(points), found.grid)
        at = np.floor(points).astype(int)
        known = torch.from_numpy(zoomed.frame.mask[at[:, 1], at[:, 0]]) & (descriptors.norm(dim=1) > 0.5)
        if known.sum() < _MIN_POINTS:
            continue
        kept.append(descriptors[known].half())
        places.append(known.nonzero()[:, 0].int())
        poses.append(zoomed.zoomed_from_camera @ view.camera_from_object)
    if not kept:
        return None
    template = torch.repeat_interleave(torch.tensor([len(item) for item in places])).int()
    focals = (torch.full((len(poses),), value, dtype=torch.float64) for value in (focal_px, frame.camera.fx))
    return Templates(torch.cat(kept), template, torch.cat(places), torch.from_numpy(np.stack(poses)), *focals)


def joined(parts: Sequence[Templates]) -> Templates | None:
    """Those of several views as one, sorted by place; None of none."""
    if not parts:
        return None
    descriptors, template, place, *others = (torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Templates))
    firsts = torch.tensor([0, *(len(part) for part in parts[:-1])]).cumsum(0)
    template = template + torch.repeat_interleave(firsts, torch.tensor([len(part.template) for part in parts])).int()
    order = place.argsort(stable=True)
    return Templates(descriptors[order], template[order], place[order], *others)
