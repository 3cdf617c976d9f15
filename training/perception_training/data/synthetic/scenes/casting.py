"""The first hit of many rays among the primitives of their frames, in two ways that agree: every pair, or only pairs that may meet.

Every pair suits a GPU, where it needs few kernels and never waits for the host. On a CPU, tiles of rays are tested only against the primitives that
can lie in front of them (`culling`), tiles with one candidate or more together, then those with two or more, and so on, in pieces that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.intersection import HeightGrids, Vector, intersect
from perception_training.data.synthetic.scenes.scene import Kind, SceneBatch
from perception_training.data.synthetic.scenes.tiling import CameraRays, RaysTo
from perception_training.data.synthetic.scenes.unit_frames import are_of_kind, primitives_of_kind

SOLID_KINDS = tuple(kind for kind in Kind if kind != Kind.NONE)

_PAIRS_TOGETHER_CPU = 30720
"""Ray-primitive pairs in one piece: some ten tensors of them fit in a core's cache, and each is so small (below 32768 elements and 128 KB) that
torch neither splits it among threads nor maps fresh memory for it, both of which cost more than the arithmetic."""

_PAIRS_TOGETHER_GPU = 1 << 25


@dataclass(frozen=True, eq=False)
class Bundle:
    """Rays in rows; all rays of a row start at one point and belong to one frame."""

    rays: CameraRays | RaysTo
    frame: Tensor
    """(rows,) int64 of each row, counted through all clips."""
    unit_from_ray: Tensor
    """(origins, P, 4, 4) float32 or float64: from coordinates along the axes of `rays` around where they start. Its type is that of the result."""
    origin: Tensor
    """(rows,) int64: which of `unit_from_ray` a row uses."""
    near: float
    far: float
    """Only hits strictly between count."""
    shadows: bool
    """Only primitives that cast shadows can be hit."""


@dataclass(frozen=True, eq=False)
class Hits:
    """t (rows, rays): `far` where nothing is hit · primitive (rows, rays) int64: -1 where nothing is hit."""

    t: Tensor
    primitive: Tensor


def first_hits(scene: SceneBatch, bundle: Bundle, candidates: Tensor | None) -> Hits:
    """candidates (rows, P) bool: pairs that may meet; None: all pairs."""
    shape = (bundle.rays.num_rows, bundle.rays.num_rays)
    t = torch.full(shape, bundle.far, dtype=bundle.unit_from_ray.dtype, device=scene.device)
    primitive = torch.full_like(t, -1)  # as floating point: selecting then is arithmetic on one type
    for kind in SOLID_KINDS:
        members = primitives_of_kind(scene, kind, bundle.shadows)
        if members is None:
            continue
        if candidates is None:
            _hit_all(scene, bundle, kind, members, t, primitive)
        else:
            _hit_candidates(scene, bundle, kind, candidates, t, primitive)
    return Hits(t, primitive.long())


def _origin_of(matrix: Tensor) -> Vector:
    return matrix[..., 0, 3, None], matrix[..., 1, 3, None], matrix[..., 2, 3, None]


def _aside(like: Tensor) -> Tensor:
    """(4, 4) transform of padding: its rays stand still beside every shape."""
    aside = torch.zeros(4, 4, dtype=like.dtype, device=like.device)
    aside[:3, 3].fill_(2)
    return aside


def _hit_all(scene: SceneBatch, bundle: Bundle, kind: Kind, members: Tensor, t: Tensor, primitive: Tensor) -> None:
    """Improve t and primitive by every primitive of `kind`. members (B, n), -1 is padding."""
    num_members = members.shape[1]
    rows_together = max(1, _PAIRS_TOGETHER_GPU // max(1, num_members * t.shape[1]))
    clip = bundle.frame // scene.num_frames
    for start in range(0, len(t), rows_together):
        rows = slice(start, start + rows_together)
        member = members[clip[rows]]
        matrix = bundle.unit_from_ray[bundle.origin[rows, None], member.clamp(min=0)]
        matrix = torch.where((member < 0)[..., None, None], _aside(matrix), matrix)
        field = scene.height_index[clip[rows, None], member.clamp(min=0)][..., None]
        direction = bundle.rays.directions(rows, matrix[..., :3, :3])
        found = intersect(kind, _origin_of(matrix), direction, bundle.near, HeightGrids(scene.heights, field))
        nearest, which = found.min(1)
        closer = nearest < t[rows]
        t[rows] = torch.where(closer, nearest, t[rows])
        primitive[rows] = torch.where(closer, member.gather(1, which).to(t.dtype), primitive[rows])


def _hit_candidates(scene: SceneBatch, bundle: Bundle, kind: Kind, candidates: Tensor, t: Tensor, primitive: Tensor) -> None:
    """Improve t and primitive by the candidates of `kind`."""
    clip = bundle.frame // scene.num_frames
    of_kind = candidates & are_of_kind(scene, kind, bundle.shadows)[clip]
    for rows, member in _rounds(of_kind, max(1, _PAIRS_TOGETHER_CPU // t.shape[1])):
        matrix = bundle.unit_from_ray[bundle.origin[rows], member]
        field = scene.height_index[clip[rows], member][:, None]
        direction = bundle.rays.directions(rows, matrix[..., :3, :3])
        found = intersect(kind, _origin_of(matrix), direction, bundle.near, HeightGrids(scene.heights, field))
        before = t.index_select(0, rows)
        closer = torch.lt(found, before, out=torch.empty_like(found))
        t.index_copy_(0, rows, torch.minimum(found, before))
        primitive.index_copy_(0, rows, torch.lerp(primitive.index_select(0, rows), member[:, None].to(t.dtype), closer))


def _rounds(pairs: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and primitives of the True entries of (rows, P), at most `most` together and no row twice in one piece."""
    row, member = pairs.nonzero(as_tuple=True)
    turn = (pairs.cumsum(1) - 1)[row, member]
    order = torch.argsort(turn, stable=True)
    sizes = torch.bincount(turn).tolist()
    for rows, members in zip(row[order].split(sizes), member[order].split(sizes), strict=True):
        yield from zip(rows.split(most), members.split(most), strict=True)
