"""What the rays found: the points, normals and colours of the surfaces that were hit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.casting import Hits
from perception_training.data.synthetic.scenes.intersection import HeightGrids, Vector, height_slopes
from perception_training.data.synthetic.scenes.scene import Kind, SceneBatch
from perception_training.data.synthetic.scenes.texture_stack import TextureStack
from perception_training.data.synthetic.scenes.tiling import CameraRays
from perception_training.data.synthetic.scenes.unit_frames import half_extents

_FACE_SHIFT = 0.37
"""Repeats by which the texture moves from one face of a box to the next, so that faces differ."""

_FLATTEST_COSINE = 0.1
"""Texture of surfaces seen flatter than this is filtered as if they were seen so: sharper, at some aliasing along the slope."""

_COLUMNS = {"rotation": 9, "position": 3, "size": 3, "offset": 2, "tint": 3, "scale": 1, "specular": 1, "shininess": 1}


@dataclass(frozen=True, eq=False)
class Surface:
    """Surfaces hit, all (rows, rays); arbitrary where nothing is hit. point, normal (towards the camera), view (to the camera): world axes."""

    point: Vector
    normal: Vector
    view: Vector
    colour: Vector
    specular: Tensor
    shininess: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Surface]) -> Surface:
        """One after the other along the rows."""

        def vectors(name: str) -> Vector:
            x, y, z = (torch.cat(axis) for axis in zip(*(getattr(part, name) for part in parts), strict=True))
            return x, y, z

        specular, shininess = (torch.cat([getattr(part, name) for part in parts]) for name in ("specular", "shininess"))
        return cls(vectors("point"), vectors("normal"), vectors("view"), vectors("colour"), specular, shininess)


def dot(first: Vector, second: Vector) -> Tensor:
    return torch.addcmul(torch.addcmul(first[0] * second[0], first[1], second[1]), first[2], second[2])


def normalised(vector: Vector) -> Vector:
    scale = dot(vector, vector).clamp_(min=1e-30).rsqrt_()
    return vector[0] * scale, vector[1] * scale, vector[2] * scale


@dataclass(frozen=True, eq=False)
class PrimitiveTable:
    """Properties of all primitives of all frames: values (columns, frames * P) float32, labels (3, frames * P) int32: kind, texture, height field."""

    values: Tensor
    labels: Tensor
    kinds: tuple[Kind, ...]

    @classmethod
    def of(cls, scene: SceneBatch) -> PrimitiveTable:
        transform = scene.world_from_primitive.flatten(0, 1).float()
        per_clip = [half_extents(scene).float(), scene.texture_offset, scene.tint]
        per_clip += [part[..., None] for part in (scene.texture_scale, scene.specular, scene.shininess)]
        values = torch.cat(
            [transform[..., :3, :3].flatten(2), transform[..., :3, 3], torch.cat(per_clip, 2).repeat_interleave(scene.num_frames, 0)], 2
        )
        labels = torch.stack([scene.kind_there, scene.texture, scene.height_index], 2).repeat_interleave(scene.num_frames, 0)
        kinds = tuple(kind for kind in Kind if bool((scene.kind == kind).any()))
        return cls(values.flatten(0, 1).T.contiguous(), labels.flatten(0, 1).T.int().contiguous(), kinds)

    def gather(self, index: Tensor) -> tuple[dict[str, tuple[Tensor, ...]], tuple[Tensor, Tensor, Tensor]]:
        """Columns by name, and kind, texture and height field, for primitives `index` of any shape."""
        flat = index.flatten()  # index_select takes a quarter of the time of column[index] on a CPU
        columns = [column.index_select(0, flat).view(index.shape) for column in self.values]
        named, start = {}, 0
        for name, width in _COLUMNS.items():
            named[name] = tuple(columns[start : start + width])
            start += width
        kind, texture, field = (label.index_select(0, flat).view(index.shape) for label in self.labels)
        return named, (kind, texture, field)


def surfaces(scene: SceneBatch, table: PrimitiveTable, rays: CameraRays, hits: Hits, frame: Tensor, rows: slice, textured: bool) -> Surface:
    """The surfaces that these rows of rays hit; without their texture unless `textured`."""
    frame, t = frame[rows], hits.t[rows]
    columns, (kind, texture, field) = table.gather(frame[:, None] * scene.num_primitives + hits.primitive[rows].clamp(min=0))
    world_from_camera = scene.world_from_camera.flatten(0, 1)[frame].float()
    along = rays.directions(rows, world_from_camera[:, :3, :3])
    x, y, z = (torch.addcmul(world_from_camera[:, axis, 3, None], t, along[axis]) for axis in range(3))
    rotation, position = columns["rotation"], columns["position"]
    size = (columns["size"][0], columns["size"][1], columns["size"][2])
    offset = (x - position[0], y - position[1], z - position[2])
    local_x, local_y, local_z = (dot(offset, (rotation[axis], rotation[3 + axis], rotation[6 + axis])) for axis in range(3))
    local = (local_x, local_y, local_z)
    unit = (local_x / size[0], local_y / size[1], local_z / size[2])
    local_normal, face = _local_normals(table.kinds, kind, unit, size, HeightGrids(scene.heights, field))
    view = normalised((-along[0], -along[1], -along[2]))
    turned = [dot(local_normal, (rotation[3 * axis], rotation[3 * axis + 1], rotation[3 * axis + 2])) for axis in range(3)]
    cosine = dot((turned[0], turned[1], turned[2]), view)
    towards = torch.where(cosine < 0, -1.0, 1.0)
    normal = (turned[0] * towards, turned[1] * towards, turned[2] * towards)
    red, green, blue = columns["tint"]
    if textured:
        size_m = t / scene.intrinsics.flatten(0, 1)[frame, :2].amin(1).float()[:, None]
        place = _texture_place(table.kinds, kind, local, unit, size, face, local_normal, columns["scale"][0])
        pattern = _pattern(scene.textures, texture, place, columns, size_m / cosine.abs().clamp_(min=_FLATTEST_COSINE))
        red, green, blue = (tone * value for tone, value in zip((red, green, blue), pattern, strict=True))
    return Surface((x, y, z), normal, view, (red, green, blue), columns["specular"][0], columns["shininess"][0])


def _pattern(
    textures: TextureStack, texture: Tensor, place: tuple[Tensor, Tensor, Tensor], columns: dict[str, tuple[Tensor, ...]], footprint_m: Tensor
) -> Vector:
    """Colours of the texture at `place`, 1 where there is none. footprint_m: metres of surface below a pixel."""
    u, v, squeeze = place
    texels = (footprint_m * squeeze).mul_(columns["scale"][0]).mul_(textures.resolution).clamp_(min=1e-6)
    colours = textures.lookup(texture.clamp(min=0), u + columns["offset"][0], v + columns["offset"][1], texels.log2_())
    plain = texture < 0
    red, green, blue = (colour.masked_fill_(plain, 1) for colour in colours)
    return red, green, blue


def _local_normals(kinds: tuple[Kind, ...], kind: Tensor, unit: Vector, size: Vector, grids: HeightGrids) -> tuple[Vector, Tensor]:
    """Normals in primitive axes, and the face: 0, 1, 2 across x, y, z, and 3 for round sides. Boxes: from which of their faces is nearest."""
    magnitude = (unit[0].abs(), unit[1].abs(), unit[2].abs())
    across_x = (magnitude[0] >= magnitude[1]) & (magnitude[0] >= magnitude[2])
    across_y = ~across_x & (magnitude[1] >= magnitude[2])
    face = torch.where(across_x, 0, torch.where(across_y, 1, 2))
    sheet = (kind == Kind.PLANE) | (kind == Kind.HEIGHT_FIELD)
    face = torch.where(sheet, 2, face)
    zero, one = torch.zeros_like(unit[0]), torch.ones_like(unit[0])
    normal = [torch.where(face == axis, torch.where(sheet, one, unit[axis].sign()), zero) for axis in range(3)]
    if Kind.ELLIPSOID in kinds:
        ball = kind == Kind.ELLIPSOID
        steep = normalised((unit[0] / size[0], unit[1] / size[1], unit[2] / size[2]))
        normal = [torch.where(ball, part, old) for part, old in zip(steep, normal, strict=True)]
        face = torch.where(ball, 3, face)
    if Kind.CYLINDER in kinds:
        cylinder = kind == Kind.CYLINDER
        side = cylinder & (unit[0].square() + unit[1].square() > unit[2].square())
        steep = normalised((unit[0] / size[0], unit[1] / size[1], zero))
        lid = (zero, zero, unit[2].sign())
        normal = [torch.where(side, a, torch.where(cylinder, b, old)) for a, b, old in zip(steep, lid, normal, strict=True)]
        face = torch.where(side, 3, torch.where(cylinder, 2, face))
    if Kind.HEIGHT_FIELD in kinds:
        field = kind == Kind.HEIGHT_FIELD
        along_x, along_y = height_slopes(HeightGrids(grids.heights, torch.where(field, grids.field, 0)), unit[0], unit[1])
        steep = normalised((-along_x * size[2] / size[0], -along_y * size[2] / size[1], one))
        normal = [torch.where(field, part, old) for part, old in zip(steep, normal, strict=True)]
    return (normal[0], normal[1], normal[2]), face


def _texture_place(
    kinds: tuple[Kind, ...], kind: Tensor, local: Vector, unit: Vector, size: Vector, face: Tensor, normal: Vector, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """u and v in repeats, and by how much the texture is squeezed there against `scale`.

    Faces: two coordinates in metres. Round sides: the angle about z, with a whole number of repeats so that there is no seam, and the height
    (cylinder) or the angle from the pole (ellipsoid).
    """
    behind = torch.where((kind == Kind.BOX) & (normal[0] + normal[1] + normal[2] < 0), 3, 0)
    shift = (face + behind) * _FACE_SHIFT
    u = torch.where(face == 0, local[1], local[0]) * scale + shift
    v = torch.where(face == 2, local[1], local[2]) * scale + shift
    squeeze = torch.ones_like(u)
    if Kind.ELLIPSOID not in kinds and Kind.CYLINDER not in kinds:
        return u, v, squeeze
    side = face == 3
    turn = torch.atan2(unit[1], unit[0]) / (2 * math.pi)
    girth = (size[0] + size[1]) * math.pi
    u = torch.where(side, turn * (girth * scale).round().clamp_(min=1), u)
    polar = unit[2].clamp(-1, 1)
    latitude = torch.where(kind == Kind.ELLIPSOID, torch.acos(polar) * size[2], local[2])
    v = torch.where(side, latitude * scale, v)
    thin = (1 - polar.square()).clamp_(min=0.01).rsqrt_()
    return u, v, torch.where(side & (kind == Kind.ELLIPSOID), thin, squeeze)
