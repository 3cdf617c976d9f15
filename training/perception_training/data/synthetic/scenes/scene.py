"""What a procedural clip is made of: the contract between those who lay scenes out and those who render them.

B clips, T frames, P primitives and L lights, padded to the largest of the batch. World axes: z up, metres. Camera axes: OpenCV (x right, y down,
z forward); pixel centres at integers. Transforms and intrinsics are float64, because truth is computed from them; all else is float32.

The kinds, in their own coordinates (centred on the origin; `size` has half extents):

- NONE: padding.
- BOX: |x|, |y|, |z| <= size.
- ELLIPSOID: radii `size`.
- CYLINDER: axis z, radii size x and size y, half height size z, closed at both ends.
- PLANE: the rectangle z = 0, |x| <= size x, |y| <= size y, seen from both sides; infinity is allowed; size z is ignored.
- HEIGHT_FIELD: the sheet z = size z * h(x, y) over |x| <= size x, |y| <= size y, seen from both sides. h interpolates its grid bilinearly, column 0
  at x = -size x, row 0 at y = -size y.

A solid (box, ellipsoid, cylinder) that contains the camera is seen from inside: a room may be one box, or six planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from perception.core.errors import InputError
from perception_training.data.synthetic.scenes.texture_stack import TextureStack

MAX_DEPTH_M = 1000.0
"""What is farther along z than this is background."""


class Kind(IntEnum):
    """Shape of a primitive."""

    NONE = 0
    BOX = 1
    ELLIPSOID = 2
    CYLINDER = 3
    PLANE = 4
    HEIGHT_FIELD = 5


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """B clips of T frames. All tensors lie on one device, but `kind` and `casts_shadow` on the CPU: they decide what is computed at all."""

    kind: Tensor
    """(B, P) int64 on the CPU: a value of `Kind`."""
    size: Tensor
    """(B, P, 3) half extents or radii in metres."""
    world_from_primitive: Tensor
    """(B, T, P, 4, 4) float64 rigid."""
    object_id: Tensor
    """(B, P) int32 > 0: primitives that form one rigid body share it; each part of an articulated body has its own."""
    is_dynamic: Tensor
    """(B, P) bool: moves in the world."""
    casts_shadow: Tensor
    """(B, P) bool on the CPU. False for walls and floor saves time: nothing but light from outside could tell."""
    texture: Tensor
    """(B, P) int64 index into `textures`; -1 is plain."""
    texture_scale: Tensor
    """(B, P) repeats of the texture for each metre of surface."""
    texture_offset: Tensor
    """(B, P, 2) shift of the texture, in repeats."""
    tint: Tensor
    """(B, P, 3) linear colour that multiplies the texture."""
    specular: Tensor
    """(B, P) strength of the highlight, 0 is matt."""
    shininess: Tensor
    """(B, P) Blinn-Phong exponent."""
    height_index: Tensor
    """(B, P) int64 index into `heights`; 0 where unused."""
    light_position: Tensor
    """(B, T, L, 3) world, metres."""
    light_colour: Tensor
    """(B, L, 3) linear irradiance at one metre; falls with the square of the distance; 0 is padding."""
    ambient: Tensor
    """(B, 3) linear radiance that reaches every surface from all sides."""
    background: Tensor
    """(B, 2, 3) linear colour where nothing is hit: at and below the horizon, and at the zenith."""
    intrinsics: Tensor
    """(B, T, 4) float64 fx, fy, cx, cy in px."""
    world_from_camera: Tensor
    """(B, T, 4, 4) float64 rigid."""
    exposure: Tensor
    """(B, T) gain that multiplies the radiance of a frame."""
    textures: TextureStack
    heights: Tensor
    """(K, rows, columns) in [-1, 1]; K may be 0 (then rows and columns are 2)."""
    image_size: tuple[int, int]
    """height, width in px."""

    def __post_init__(self) -> None:
        (num_clips, num_primitives), num_frames, num_lights = self.kind.shape, self.exposure.shape[1], self.light_colour.shape[1]
        per_primitive = (num_clips, num_primitives)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("object_id", "is_dynamic", "casts_shadow", "texture", "texture_scale", "specular", "shininess"), per_primitive
        )
        shapes |= {"size": (*per_primitive, 3), "texture_offset": (*per_primitive, 2), "tint": (*per_primitive, 3), "height_index": per_primitive}
        shapes["world_from_primitive"] = (num_clips, num_frames, num_primitives, 4, 4)
        shapes |= {"light_position": (num_clips, num_frames, num_lights, 3), "light_colour": (num_clips, num_lights, 3)}
        shapes |= {"ambient": (num_clips, 3), "background": (num_clips, 2, 3), "exposure": (num_clips, num_frames)}
        shapes |= {"intrinsics": (num_clips, num_frames, 4), "world_from_camera": (num_clips, num_frames, 4, 4)}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(f"scene: {name} has shape {tuple(getattr(self, name).shape)}: must be {shape}")
        if self.heights.ndim != 3 or min(self.heights.shape[1:]) < 2:
            raise InputError(f"scene: heights have shape {tuple(self.heights.shape)}: must be (fields, rows >= 2, columns >= 2)")
        for name in ("world_from_primitive", "world_from_camera", "intrinsics"):
            if getattr(self, name).dtype != torch.float64:
                raise InputError(f"scene: {name} is {getattr(self, name).dtype}: must be torch.float64")
        for name in ON_HOST:
            if getattr(self, name).device.type != "cpu":
                raise InputError(f"scene: {name} lies on {getattr(self, name).device}: must stay on the CPU")

    @property
    def num_clips(self) -> int:
        return self.kind.shape[0]

    @property
    def num_frames(self) -> int:
        return self.exposure.shape[1]

    @property
    def num_primitives(self) -> int:
        return self.kind.shape[1]

    @property
    def num_lights(self) -> int:
        return self.light_colour.shape[1]

    @property
    def device(self) -> torch.device:
        return self.size.device

    @cached_property
    def kind_there(self) -> Tensor:
        """`kind` on the device: copied once, because each copy makes the host wait for a GPU."""
        return self.kind.to(self.device)

    @cached_property
    def casts_shadow_there(self) -> Tensor:
        """`casts_shadow` on the device."""
        return self.casts_shadow.to(self.device)

    def to(self, device: torch.device | str) -> SceneBatch:
        moved = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in (*ON_HOST, "image_size")}
        return replace(self, **{name: value.to(device) for name, value in moved.items()})

    def at_frames(self, frames: Sequence[int]) -> SceneBatch:
        """The same clips, these frames only."""
        rows = list(frames)
        return replace(self, **{name: getattr(self, name)[:, rows] for name in PER_FRAME})

    def at_clips(self, clips: Sequence[int]) -> SceneBatch:
        """These clips of the batch only."""
        rows = list(clips)
        return replace(self, **{name: getattr(self, name)[rows] for name in PER_CLIP})


ON_HOST = ("kind", "casts_shadow")
"""Fields that stay on the CPU."""

PER_FRAME = ("world_from_primitive", "light_position", "intrinsics", "world_from_camera", "exposure")
"""Fields with a frame dimension after that of the clips."""

PER_CLIP = tuple(field.name for field in fields(SceneBatch) if field.name not in ("textures", "heights", "image_size"))
"""Fields with a clip dimension."""

_PRIMITIVE_DIMENSION = {"world_from_primitive": 2} | {
    name: 1
    for name in (
        *("kind", "size", "object_id", "is_dynamic", "casts_shadow", "texture", "texture_scale", "texture_offset", "tint"),
        *("specular", "shininess", "height_index"),
    )
}
_LIGHT_DIMENSION = {"light_position": 2, "light_colour": 1}


def concatenate(scenes: Sequence[SceneBatch]) -> SceneBatch:
    """One batch of all clips, padded to the most primitives and lights. Frames, image size, texture resolution and height grids must be equal."""
    if not scenes:
        raise InputError("scenes to concatenate: none; must be at least one")
    for name in ("num_frames", "image_size", "device"):
        found = {getattr(scene, name) for scene in scenes}
        if len(found) > 1:
            raise InputError(f"scenes to concatenate differ in {name}: {sorted(map(str, found))}; must be equal")
    stacks, first_texture, first_height = _unique_stacks(scenes)
    widths = {dimension: max(getattr(scene, dimension) for scene in scenes) for dimension in ("num_primitives", "num_lights")}
    joined = {}
    for name in PER_CLIP:
        parts = [getattr(scene, name) for scene in scenes]
        if name == "texture":
            parts = [torch.where(part >= 0, part + first, part) for part, first in zip(parts, first_texture, strict=True)]
        if name == "height_index":
            parts = [part + first for part, first in zip(parts, first_height, strict=True)]
        if name in _PRIMITIVE_DIMENSION:
            parts = [_widen(part, _PRIMITIVE_DIMENSION[name], widths["num_primitives"]) for part in parts]
        if name in _LIGHT_DIMENSION:
            parts = [_widen(part, _LIGHT_DIMENSION[name], widths["num_lights"]) for part in parts]
        joined[name] = torch.cat(parts)
    textures = TextureStack(torch.cat([stack.texels for stack in stacks], 1), stacks[0].resolution)
    return SceneBatch(**joined, textures=textures, heights=_join_heights(scenes), image_size=scenes[0].image_size)


def _unique_stacks(scenes: Sequence[SceneBatch]) -> tuple[list[TextureStack], list[int], list[int]]:
    """Texture stacks, each once (clips often share one), and for each scene the index of its first texture and its first height field."""
    if len({scene.textures.resolution for scene in scenes}) > 1:
        raise InputError(f"scenes to concatenate have textures of {[scene.textures.resolution for scene in scenes]} texels: must be equal")
    stacks: list[TextureStack] = []
    starts: dict[int, int] = {}
    for scene in scenes:
        if id(scene.textures) not in starts:
            starts[id(scene.textures)] = sum(stack.num_textures for stack in stacks)
            stacks.append(scene.textures)
    fields_before = [sum(len(earlier.heights) for earlier in scenes[:index]) for index in range(len(scenes))]
    return stacks, [starts[id(scene.textures)] for scene in scenes], fields_before


def _join_heights(scenes: Sequence[SceneBatch]) -> Tensor:
    used = [scene.heights for scene in scenes if len(scene.heights)]
    if len({tuple(heights.shape[1:]) for heights in used}) > 1:
        raise InputError(f"scenes to concatenate have height grids {[tuple(heights.shape[1:]) for heights in used]}: must be equal")
    return torch.cat(used) if used else scenes[0].heights


def _widen(values: Tensor, dimension: int, width: int) -> Tensor:
    """Pad one dimension with zeros (transforms: with identities) up to `width`."""
    missing = width - values.shape[dimension]
    if not missing:
        return values
    after = [0, 0] * (values.ndim - 1 - dimension) + [0, missing]
    padded = pad(values, after)
    if values.ndim == 5:
        padded[:, :, values.shape[dimension] :] = torch.eye(4, dtype=values.dtype, device=values.device)
    return padded
