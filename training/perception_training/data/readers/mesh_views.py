"""Views of meshes under the name `mesh_views`: rendered when a frame is asked for, by the same code as `perception-train render MESH...`.

The root is a mesh or a folder of meshes. The world of a sequence is the mesh's normalised frame (longest side 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception_training.data.sequences import Dataset
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.mesh_views.views import DATASET, find_meshes, object_name


@dataclass(frozen=True, kw_only=True)
class MeshViewsOptions(Checked):
    """How the meshes are rendered."""

    seed: Annotated[int, Range(0, 2**60)] = 0
    """Of lights and backgrounds."""
    views: MeshViewsConfig = field(default_factory=MeshViewsConfig)
    """Views of each mesh."""


class MeshFolder(Dataset):
    """Views of meshes, rendered as they are asked for. Sequences are named by folder and stem of their mesh."""

    name: ClassVar[str] = DATASET
    Options: ClassVar[type[Checked]] = MeshViewsOptions
    options: MeshViewsOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._paths: dict[str, Path] = {}
        for path in find_meshes(self.root):
            name = object_name(path)
            if name in self._paths:
                raise InputError(f"meshes {self._paths[name]} and {path}: both are named {name}; names must differ")
            self._paths[name] = path
        return tuple(sorted(self._paths))

    def open_sequence(self, name: str) -> MeshViews:
        if name not in self._paths:
            raise InputError(f"{self.name} {self.root}: no mesh {name!r}; the first is {self.sequence_names[0]!r}")
        return MeshViews(self._paths[name], self.options.views, self.options.seed)
