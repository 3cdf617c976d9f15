"""MVImgNet: videos around objects of 238 classes, each with a COLMAP reconstruction.

Layout after GAP-LAB-CUHK-SZ/MVImgNet `README.md`: `<class label>/<instance>/images/NNN.jpg` and `<class label>/<instance>/sparse/0/*.bin`; names
of the classes in that repository's `mvimgnet_category.txt` ("0,bag" in each line), used as text where the file lies beside the classes.
Masks are a separate archive (MVImgNet_mask). That they lie at `<class label>/<instance>/NNN.jpg.png` below its folder, in another resolution, is
not documented by the publisher; it is how public loaders of the set read them. Not every frame has one.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, ClassVar

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception_training.data.layouts.annotation_files import read_lines
from perception_training.data.layouts.depth_images import read_foreground
from perception_training.data.readers.colmap import ColmapOptions, colmap_sequence
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

CATEGORY_FILE = "mvimgnet_category.txt"


@dataclass(frozen=True, kw_only=True)
class MvImgNetOptions(Checked):
    """Which part of MVImgNet is read."""

    categories: tuple[str, ...] = ()
    """Class labels (their folders' names, such as 0); all when empty."""
    masks: str = "masks"
    """Folder of the unpacked mask archive, absolute or below the data set's; without such a folder there are no masks."""
    max_track_points: Annotated[int, Range(0)] = 4096
    """At most so many points become tracks, those that most images see; 0: no tracks."""


class MvImgNet(Dataset):
    """Videos around objects (MVImgNet): cameras, poses, sparse points as tracks, masks.

    Sequences `<class label>/<instance>` with cameras, poses, the model's points as tracks, and masks where their archive is unpacked.
    """

    name: ClassVar[str] = "mvimgnet"
    Options: ClassVar[type[Checked]] = MvImgNetOptions
    options: MvImgNetOptions

    @cached_property
    def _mask_root(self) -> Path:
        return self.root / self.options.masks

    def _list_sequences(self) -> tuple[str, ...]:
        with os.scandir(self.root) as entries:
            present = sorted(entry.name for entry in entries if entry.is_dir() and Path(entry.path) != self._mask_root)
        unknown = sorted(set(self.options.categories) - set(present))
        if unknown:
            raise InputError(f"{self.name} {self.root}: no folder of category {unknown[0]!r}; there are {', '.join(present[:20])}")
        names = []
        for category in self.options.categories or present:
            with os.scandir(self.root / category) as entries:
                names += [f"{category}/{entry.name}" for entry in entries if entry.is_dir()]
        return tuple(sorted(names))

    def open_sequence(self, name: str) -> RecordedSequence:
        files = ColmapOptions(max_track_points=self.options.max_track_points)
        sequence = colmap_sequence(self.name, name, self.root / name, files)
        masks = self._mask_root / name
        present = set(os.listdir(masks)) if masks.is_dir() else set()
        records = tuple(
            _with_mask(record, masks / f"{record.name}.png") if f"{record.name}.png" in present else record for record in sequence.records
        )
        return dataclasses.replace(sequence, records=records, text=self._category_names.get(name.split("/")[0]))

    @cached_property
    def _category_names(self) -> dict[str, str]:
        path = self.root / CATEGORY_FILE
        if not path.is_file():
            return {}
        pairs = [line.split(",", 1) for line in read_lines(path)]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong is not None:
            raise InputError(f"{path}: line {wrong[0]!r}: must be a class label, a comma and a name")
        return {label: category for label, category in pairs}


def _with_mask(record: FrameRecord, path: Path) -> FrameRecord:
    assert record.camera is not None
    return dataclasses.replace(record, read_mask=partial(read_foreground, path, (record.camera.width, record.camera.height), may_be_scaled=True))
