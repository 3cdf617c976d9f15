"""A data set in memory whose frames can be told apart; worker processes open it without the renderer where it has no depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.data.sequences import Dataset, FrameRecord, FrameSequence, RecordedSequence


@dataclass(frozen=True, kw_only=True)
class MiniatureOptions(Checked):
    """What the data set in memory holds."""

    lengths: tuple[int, ...] = (6, 6, 6)
    """Frames of each sequence."""
    bad: tuple[str, ...] = ()
    """sequence/frame that cannot be read."""
    has_depth: bool = True
    """Whether frames have depth, masks, poses and cameras."""
    width: int = 64
    height: int = 48


class MiniatureDataset(Dataset):
    """Sequences s0, s1, ...; the first image row of every frame holds (sequence, frame), so that tests recognise it."""

    name = "miniature"
    Options = MiniatureOptions

    def __init__(self, options: MiniatureOptions | None = None, name: str = "miniature") -> None:
        self.name = name  # type: ignore[misc]
        super().__init__(Path(__file__).parent, options)

    @property
    def choices(self) -> MiniatureOptions:
        assert isinstance(self.options, MiniatureOptions)
        return self.options

    def _list_sequences(self) -> tuple[str, ...]:
        return tuple(f"s{number}" for number in range(len(self.choices.lengths)))

    def open_sequence(self, name: str) -> FrameSequence:
        length = self.choices.lengths[int(name[1:])]
        return RecordedSequence(self.name, name, tuple(self._record(int(name[1:]), frame) for frame in range(length)), text=f"sequence {name}")

    def _record(self, sequence: int, frame: int) -> FrameRecord:
        choices = self.choices
        path = Path(f"/miniature/s{sequence}/{frame:04d}.png")
        if not choices.has_depth:
            image = np.random.default_rng((sequence, frame)).integers(0, 256, (choices.height, choices.width, 3), dtype=np.uint8)
            return FrameRecord(f"{frame:04d}", path, self._read_image(path, image, sequence, frame))
        from tests.support.miniatures.scene import miniature_scene  # open3d, which worker processes need not import for plain images

        scene = miniature_scene(8, choices.width, choices.height)
        number = frame % len(scene)
        read_image = self._read_image(path, scene.images[number].copy(), sequence, frame)
        depth, mask = scene.depth_m[number], scene.masks[number]
        pose = scene.world_from_camera[number]
        return FrameRecord(f"{frame:04d}", path, read_image, scene.cameras[number], pose, partial(np.copy, depth), partial(np.copy, mask), frame / 30)

    def _read_image(self, path: Path, image: NDArray[np.uint8], sequence: int, frame: int) -> Callable[[], NDArray[np.uint8]]:
        image[0] = (sequence, frame % 256, frame // 256)
        return partial(unreadable, path) if f"s{sequence}/{frame}" in self.choices.bad else partial(np.copy, image)


def unreadable(path: Path) -> NDArray[np.uint8]:
    """What a damaged file does."""
    raise InputError(f"image {path}: 12 bytes that cannot be decoded: truncated, or not an image")


def identity_of(image: NDArray[np.uint8]) -> tuple[int, int]:
    """(sequence, frame) of an image (height, width, 3) of a MiniatureDataset that was not augmented."""
    return int(image[0, 0, 0]), int(image[0, 0, 1]) + 256 * int(image[0, 0, 2])
