"""Procedural scenes under the name `scenes`: rooms, table tops and open ground, rendered when a frame is asked for.

There is nothing to read, so the root says what the clips are made with: a YAML file of `ScenesOptions`, or a folder whose images become
photographs on surfaces, besides those that scikit-image ships (a folder without images adds none).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from perception.core.config import Checked, Range, load_yaml
from perception.core.errors import InputError
from perception.io.images import list_images
from perception_training.data.sequences import Dataset
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import DATASET, ProceduralClip, clip_name


@dataclass(frozen=True, kw_only=True)
class ScenesOptions(Checked):
    """Which clips there are, and what they are drawn from."""

    num_clips: Annotated[int, Range(1, 10_000_000)] = 10_000
    """Clips that are listed; any other seed can be opened by its name."""
    first_seed: Annotated[int, Range(0, 2**60)] = 0
    """Seed of the first clip; the others follow."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """What the clips are drawn from."""


class ProceduralScenes(Dataset):
    """Procedural scenes, rendered when a frame is asked for; PATH is a YAML file of settings or a folder of photographs.

    Sequence i is the clip of seed `first_seed` + i; its name is the seed.
    """

    name = DATASET
    Options = ScenesOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self.settings = self._settings()
        first = self.settings.first_seed
        return tuple(clip_name(seed) for seed in range(first, first + self.settings.num_clips))

    def _settings(self) -> ScenesOptions:
        assert isinstance(self.options, ScenesOptions)
        if self.root.is_file():
            if self.options != ScenesOptions():
                raise InputError(f"scenes {self.root}: settings are given in this file and as options: must be given in one place")
            return load_yaml(ScenesOptions, self.root)
        if self.options.scenes.texture_folder or not _has_images(self.root):
            return self.options
        return replace(self.options, scenes=replace(self.options.scenes, texture_folder=str(self.root)))

    def open_sequence(self, name: str) -> ProceduralClip:
        if not name.isdecimal():
            raise InputError(f"scenes {self.root}: sequence {name!r}: must be a seed, such as {clip_name(0)}")
        return ProceduralClip(self.settings.scenes, int(name))


def _has_images(folder: Path) -> bool:
    try:
        return bool(list_images(folder))
    except InputError:
        return False
