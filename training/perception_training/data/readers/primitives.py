"""Boxes, cylinders and spheres with printed textures under the name `primitives`: objects that need no files, drawn from seeds and rendered when they
are asked for. The root is not looked at (`.`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.io.meshes import Mesh
from perception.rendering.primitives import box, cylinder, sphere
from perception.rendering.procedural_textures import printed, random_color
from perception_training.data.sequences import Dataset
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig

_TEXTURE_PX = 192


@dataclass(frozen=True, kw_only=True)
class PrimitivesOptions(Checked):
    """Which objects there are, and how they are seen."""

    num_objects: Annotated[int, Range(1, 1_000_000)] = 16
    """Objects that are listed; their seeds count up from `first_seed`."""
    first_seed: Annotated[int, Range(0)] = 0
    """Seed of the first object."""
    views: MeshViewsConfig = field(default_factory=MeshViewsConfig)
    """Viewpoints, size, light."""


class Primitives(Dataset):
    """Sequence names are seeds."""

    name: ClassVar[str] = "primitives"
    Options: ClassVar[type[Checked]] = PrimitivesOptions
    options: PrimitivesOptions

    def _list_sequences(self) -> tuple[str, ...]:
        first = self.options.first_seed
        return tuple(f"{seed:06d}" for seed in range(first, first + self.options.num_objects))

    def open_sequence(self, name: str) -> MeshViews:
        if not name.isdecimal():
            raise InputError(f"primitives: sequence {name!r}: must be a seed, such as 000000")
        return MeshViews(primitive(int(name)), self.options.views, name=f"primitive/{name}")


def primitive(seed: int) -> Mesh:
    """The object of a seed."""
    random = np.random.default_rng((seed, 7))

    def picture(height: int, width: int) -> NDArray[np.uint8]:
        return printed(random, height, width, random_color(random))

    kind, size = seed % 3, random.uniform(0.5, 1.0, 3)
    if kind == 0:
        return box((size[0], size[1], size[2]), [picture(_TEXTURE_PX, _TEXTURE_PX) for _ in range(6)])
    if kind == 1:
        label = picture(_TEXTURE_PX, 3 * _TEXTURE_PX)
        return cylinder(size[0] / 2, size[1], label, picture(3 * _TEXTURE_PX, 3 * _TEXTURE_PX))
    return sphere(size[0] / 2, picture(2 * _TEXTURE_PX, 4 * _TEXTURE_PX))
