"""Meshes on disk under the name `mesh_views`: views of each are rendered when they are asked for, as `perception-train render` would write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception_training.data.sequences import Dataset
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.mesh_views.views import DATASET, find_meshes, object_name


@dataclass(frozen=True, kw_only=True)
class MeshViewsOptions(Checked):
    """How the meshes are seen."""

    seed: Annotated[int, Range(0)] = 0
    """Of lights and backgrounds."""
    views: MeshViewsConfig = field(default_factory=MeshViewsConfig)
    """Viewpoints, size, light."""


class MeshViewsReader(Dataset):
    """Every mesh file below the root (or the root itself) is a sequence `<folder>/<stem>`; the world is its normalised frame."""

    name: ClassVar[str] = DATASET
    Options: ClassVar[type[Checked]] = MeshViewsOptions
    options: MeshViewsOptions

    def _list_sequences(self) -> tuple[str, ...]:
        return tuple(sorted(self._paths))

    @cached_property
    def _paths(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for path in find_meshes(self.root):
            name = object_name(path)
            if name in paths:
                raise InputError(f"meshes {paths[name]} and {path} have one name, {name}: folder or file name must differ")
            paths[name] = path
        return paths

    def open_sequence(self, name: str) -> MeshViews:
        if name not in self._paths:
            raise InputError(f"mesh_views {self.root}: no mesh {name!r}; there are {', '.join(self.sequence_names[:20])}")
        return MeshViews(self._paths[name], self.options.views, self.options.seed, name)
