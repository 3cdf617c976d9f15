"""Views of objects that need no files under the name `primitives`: boxes, cans, bottles and the like with pictures on them, drawn from seeds
(`data/synthetic/objects`) and rendered when they are asked for. The root is not looked at (`.`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception_training.data.sequences import Dataset
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.objects import random_object


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
        return MeshViews(random_object(int(name)), self.options.views, name=f"primitive/{name}")
