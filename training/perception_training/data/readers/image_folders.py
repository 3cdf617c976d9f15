"""Plain folders of images: each folder that holds some is a sequence, in natural order (frame2 before frame10)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from perception.core.config import Checked, Range
from perception.core.errors import unknown_name
from perception.io.images import IMAGE_SUFFIXES, list_images, read_image
from perception_training.data.layouts.video_tracks import tracks_beside
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence


@dataclass(frozen=True, kw_only=True)
class ImageFolderOptions(Checked):
    """What is known of folders of images."""

    rate_hz: Annotated[float, Range(0.0, None, "Hz")] = 0.0
    """Images per second; 0: the images have no times."""


class ImageFolders(Dataset):
    """Folders of images, with the tracks that lie beside them."""

    name: ClassVar[str] = "image_folders"
    Options: ClassVar[type[Checked]] = ImageFolderOptions
    options: ImageFolderOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._folders: dict[str, Path] = {}
        visited: set[str] = set()
        for found, subfolders, files in os.walk(self.root, followlinks=True):
            folder, real = Path(found), os.path.realpath(found)
            # A link to a folder above would be followed for ever.
            subfolders[:] = [] if real in visited else sorted(name for name in subfolders if not name.startswith("."))
            if real not in visited and any(name.lower().endswith(IMAGE_SUFFIXES) for name in files):
                self._folders["." if folder == self.root else folder.relative_to(self.root).as_posix()] = folder
            visited.add(real)
        if "." in self._folders and len(self._folders) == 1:
            self._folders = {self.root.resolve().name: self.root}
        return tuple(sorted(self._folders))

    def open_sequence(self, name: str) -> RecordedSequence:
        if name not in self._folders:
            raise unknown_name(f"{self.name} {self.root}: sequence", name, self._folders)
        folder = self._folders[name]
        paths = list_images(folder)
        rate_hz = self.options.rate_hz
        records = tuple(
            FrameRecord(path.name, path, partial(read_image, path), time_s=frame / rate_hz if rate_hz else None) for frame, path in enumerate(paths)
        )
        return RecordedSequence(self.name, name, records, read_tracks=tracks_beside(folder, len(paths)))
