"""YCB-Video, in the BOP form (`ycbv`: train_real, train_synt, train_pbr, test) or as its authors publish it (`data/0048/000001-color.png`).

Sources in layouts/bop_scene.py and layouts/ycb_toolbox.py. Videos 0048 to 0059 are the test set in both (dataset_params.py of bop_toolkit,
keyframe.txt of the toolbox). The single images of data_syn are no video and are read in the BOP form only (train_synt).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.data.layouts.annotation_files import read_lines
from perception_training.data.layouts.ycb_toolbox import YcbToolboxSequence
from perception_training.data.readers.bop import Bop, BopOptions
from perception_training.data.sequences import Dataset, FrameSequence

TEST_VIDEOS = range(48, 60)
KEYFRAME_FILES = ("image_sets/keyframe.txt", "keyframe.txt")


@dataclass(frozen=True, kw_only=True)
class YcbVideoOptions(Checked):
    """Which part of YCB-Video is read, in either form."""

    split: str = ""
    """train or test; in the BOP form the folder of the split, such as train_real; empty: all that is there."""
    keyframes_only: bool = False
    """Only the frames that methods are judged on: keyframe.txt, or the list of targets of the BOP form."""
    models: str = "models"
    """Folder of the object models."""


class YcbVideo(Dataset):
    """Videos of household objects with depth, masks and object poses, in the BOP form or in the authors' own."""

    name: ClassVar[str] = "ycb_video"
    Options: ClassVar[type[Checked]] = YcbVideoOptions
    options: YcbVideoOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._bop: Bop | None = None
        self._keyframes: dict[str, list[str]] | None = None
        if not (self.root / "data").is_dir():
            options = BopOptions(split=self.options.split, targets_only=self.options.keyframes_only, models=self.options.models)
            self._bop = _YcbBop(self.root, options)
            return self._bop.sequence_names
        if self.options.split not in ("", "train", "test"):
            raise InputError(f"{self.root}: split {self.options.split!r} is not in this form of the set; must be train or test")
        self._keyframes = _read_keyframes(self.root) if self.options.keyframes_only else None
        videos = sorted(path.name for path in (self.root / "data").iterdir() if path.is_dir() and path.name.isdigit())
        return tuple(name for name in videos if self._is_chosen(name))

    def _is_chosen(self, video: str) -> bool:
        split = "test" if int(video) in TEST_VIDEOS else "train"
        return self.options.split in ("", split) and (self._keyframes is None or video in self._keyframes)

    def open_sequence(self, name: str) -> FrameSequence:
        if self._bop is not None:
            return self._bop.open_sequence(name)
        folder = self.root / "data" / name
        if self._keyframes is not None:
            stems = [folder / frame for frame in self._keyframes[name]]
        else:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; must hold the frames of a video")
            stems = sorted(
                {folder / path.name.rpartition("-")[0] for path in folder.iterdir() if path.name.endswith(("-meta.mat", "-color.png", "-color.jpg"))}
            )
        models = self.root / self.options.models
        return YcbToolboxSequence(self.name, name, stems, models if models.is_dir() else None)


class _YcbBop(Bop):
    """The BOP form, under this data set's name."""

    name: ClassVar[str] = "ycb_video"


def _read_keyframes(root: Path) -> dict[str, list[str]]:
    """Video → its keyframes. Raises InputError that names the list when it is missing or damaged."""
    path = next((root / name for name in KEYFRAME_FILES if (root / name).is_file()), root / KEYFRAME_FILES[0])
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in read_lines(path):
        video, slash, frame = line.partition("/")
        if not (slash and video.isdigit() and frame.isdigit()):
            raise InputError(f"{path}: line {line[:40]!r}: must be a video and a frame, such as 0048/000001")
        found[video].append(frame)
    return dict(found)
