"""Any reconstruction by COLMAP: a folder with a sparse model and its images, or a folder of such folders.

Files as in colmap/colmap `doc/format.rst`: `<scene>/sparse/0/{cameras,images,points3D}.{bin,txt}` and the images below `<scene>/images`, under
the names in the model. The unit of a reconstruction is arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception_training.data.layouts.colmap_sequence import colmap_records, colmap_tracks
from perception_training.data.sequences import Dataset, RecordedSequence


@dataclass(frozen=True, kw_only=True)
class ColmapOptions(Checked):
    """Which files of a reconstruction are read."""

    image_folder: str = "images"
    """Folder of the images in each scene; images_4 and the like have their intrinsics scaled."""
    model_folder: str = "sparse/0"
    """Folder of the model in each scene."""
    max_track_points: Annotated[int, Range(0)] = 4096
    """At most so many points become tracks, those that most images see; 0: no tracks."""


class Colmap(Dataset):
    """Any COLMAP reconstruction: images, cameras, poses and the points of the model as tracks."""

    name: ClassVar[str] = "colmap"
    Options: ClassVar[type[Checked]] = ColmapOptions
    options: ColmapOptions

    def _list_sequences(self) -> tuple[str, ...]:
        if (self.root / self.options.model_folder).is_dir():
            return (self.root.resolve().name,)
        return tuple(sorted(path.name for path in self.root.iterdir() if (path / self.options.model_folder).is_dir()))

    def open_sequence(self, name: str) -> RecordedSequence:
        scene = self.root if (self.root / self.options.model_folder).is_dir() else self.root / name
        return colmap_sequence(self.name, name, scene, self.options)


def colmap_sequence(dataset: str, name: str, scene: Path, options: ColmapOptions) -> RecordedSequence:
    """The scene in this folder. Raises InputError that names the file or folder that is missing or damaged."""
    model = scene / options.model_folder
    if not model.is_dir():
        raise InputError(f"{model}: no such folder; must hold a COLMAP model")
    records = colmap_records(model, scene / options.image_folder)
    read_tracks = partial(colmap_tracks, model, records, options.max_track_points) if options.max_track_points else None
    return RecordedSequence(dataset, name, records, read_tracks=read_tracks, unit="arbitrary")
