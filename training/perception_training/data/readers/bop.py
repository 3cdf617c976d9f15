"""Any set of the BOP benchmark in its scene-wise format: `<split>/<scene>/{rgb,gray,depth,mask_visib}` with JSON annotations.

Format: thodan/bop_toolkit docs/bop_datasets_format.md (snapshot cea62d6); targets as its scripts read test_targets_bop19.json. The image-wise and
the webdataset form of the same sets are not read.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.data.layouts.bop_objects import BopModels
from perception_training.data.layouts.bop_scene import bop_scene
from perception_training.data.layouts.json_entries import entry, read_list
from perception_training.data.sequences import Dataset, RecordedSequence

TARGET_FILES = ("test_targets_bop19.json", "test_targets_bop24.json")
SPLIT_NAMES = ("train", "val", "test", "onboarding")


@dataclass(frozen=True, kw_only=True)
class BopOptions(Checked):
    """Which part of a BOP set is read."""

    split: str = ""
    """Folder of the split, such as train_pbr, val or test; empty: every split that is there."""
    targets_only: bool = False
    """Only the test images that the benchmark's list of targets names."""
    models: str = "models"
    """Folder of the object models, such as models, models_eval or models_cad; objects have no mesh and no bounds where it is absent."""
    sensor: str = ""
    """Ending of the annotation files in sets with several sensors, such as photoneo, cam1 or gray1; empty in all other sets."""


class Bop(Dataset):
    """Images, depth, intrinsics, instance masks and object poses of any set in the BOP format."""

    name: ClassVar[str] = "bop"
    Options: ClassVar[type[Checked]] = BopOptions
    options: BopOptions

    def _list_sequences(self) -> tuple[str, ...]:
        splits = _splits(self.root, self.options)
        self._targets = read_targets(self.root) if self.options.targets_only else None
        names = [f"{split}/{scene.name}" for split in splits for scene in sorted((self.root / split).iterdir()) if _is_scene(scene)]
        return tuple(name for name in names if self._targets is None or _scene_id(name) in self._targets)

    def open_sequence(self, name: str) -> RecordedSequence:
        only = None if self._targets is None else self._targets.get(_scene_id(name), frozenset())
        folder = self.root / self.options.models
        return bop_scene(self.name, name, self.root / name, BopModels(folder if folder.is_dir() else None), self.options.sensor, only)


def _splits(root: Path, options: BopOptions) -> list[str]:
    present = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name.startswith(SPLIT_NAMES))
    if options.split and not (root / options.split).is_dir():
        raise InputError(f"{root / options.split}: no such split; there are {', '.join(present) or 'none'}")
    chosen = [options.split] if options.split else present
    return [split for split in chosen if split.startswith("test")] if options.targets_only and not options.split else chosen


def _is_scene(folder: Path) -> bool:
    """Scenes are numbered; those of the onboarding splits are named after their object, such as obj_000001_up."""
    return folder.is_dir() and (folder.name.isdigit() or folder.name.startswith("obj_"))


def _scene_id(sequence: str) -> int:
    name = sequence.rsplit("/", 1)[-1]
    return int(name) if name.isdigit() else -1


def read_targets(root: Path) -> dict[int, frozenset[int]]:
    """Scene id → ids of the images that the benchmark judges. Raises InputError that names the file when it is missing or damaged."""
    path = next((root / name for name in TARGET_FILES if (root / name).is_file()), root / TARGET_FILES[0])
    found: defaultdict[int, set[int]] = defaultdict(set)
    for number, item in enumerate(read_list(path)):
        place = f"{path}, entry {number}"
        found[entry(item, "scene_id", place, int)].add(entry(item, "im_id", place, int))
    return {scene_id: frozenset(images) for scene_id, images in found.items()}
