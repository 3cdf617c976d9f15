"""Lazy sequences of frames: a data set lists its sequences, a sequence lists its frames, and nothing is decoded before `load`.

A reader turns a folder in its official layout into `FrameRecord`s; loading and checking them is the same for all and done here.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception.core.types import Camera
from perception_training.data.sample import ObjectTrack, Sample, Tracks, Unit

UNKNOWN_POSE = np.full((4, 4), np.nan)


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One frame before it is read: where its parts lie and how they are decoded.

    source: the image file (or the file that holds it), named in errors · read_image () → (height, width, 3) uint8 RGB · camera, world_from_camera
    (4, 4) where known · read_depth () → (height, width) float32, unknown 0 · read_mask () → (height, width) int32 instance ids · time_s.
    The callables must be picklable (functions or functools.partial of them), because worker processes receive them, and raise InputError that
    names the file.
    """

    name: str
    source: Path
    read_image: Callable[[], NDArray[np.uint8]]
    camera: Camera | None = None
    world_from_camera: NDArray[np.float64] | None = None
    read_depth: Callable[[], NDArray[np.float32]] | None = None
    read_mask: Callable[[], NDArray[np.int32]] | None = None
    time_s: float | None = None


class FrameSequence(ABC):
    """Frames that belong together: a clip, the images of one scene, or an annotated pair."""

    dataset: str
    name: str

    @property
    @abstractmethod
    def frame_names(self) -> tuple[str, ...]:
        """Names of all frames, in order."""

    @property
    @abstractmethod
    def world_from_camera(self) -> NDArray[np.float64] | None:
        """(all frames, 4, 4) known without reading an image; NaN for frames without a pose; None for a set without poses."""

    @abstractmethod
    def load(self, frames: SequenceOf[int]) -> Sample:
        """Read these frames (indices into `frame_names`, any order, repeats allowed). Raises InputError that names the file."""

    def source(self, frame: int) -> str:
        """Where a frame comes from, for messages: its file where it has one."""
        return f"{self.dataset}/{self.name}/{self.frame_names[frame]}"

    def __len__(self) -> int:
        return len(self.frame_names)


@dataclass(eq=False)
class RecordedSequence(FrameSequence):
    """A sequence whose frames lie on disk.

    objects: over all frames · read_tracks () → Tracks over all frames · text, unit and attributes as in `Sample`.
    """

    dataset: str
    name: str
    records: tuple[FrameRecord, ...]
    objects: tuple[ObjectTrack, ...] = field(default=())
    read_tracks: Callable[[], Tracks] | None = None
    text: str | None = None
    unit: Unit = "metre"
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.records:
            raise InputError(f"{self.dataset}/{self.name}: the sequence has no frames; must have at least one")

    @functools.cached_property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(record.name for record in self.records)

    @functools.cached_property
    def world_from_camera(self) -> NDArray[np.float64] | None:
        poses = [record.world_from_camera for record in self.records]
        return None if all(pose is None for pose in poses) else np.stack([UNKNOWN_POSE if pose is None else pose for pose in poses])

    @functools.cached_property
    def _tracks(self) -> Tracks | None:
        return None if self.read_tracks is None else self.read_tracks()

    def source(self, frame: int) -> str:
        return str(self.records[frame].source)

    def load(self, frames: SequenceOf[int]) -> Sample:
        wrong = [frame for frame in frames if not 0 <= frame < len(self)]
        if wrong:
            raise InputError(f"{self.dataset}/{self.name}: frame {wrong[0]} is not there; must be in [0, {len(self)})")
        chosen = [self.records[frame] for frame in frames]
        images = tuple(record.read_image() for record in chosen)
        for record, image in zip(chosen, images, strict=True):
            camera = record.camera
            if camera is not None and image.shape[:2] != (camera.height, camera.width):
                size = f"{image.shape[1]}x{image.shape[0]}"
                raise InputError(f"{record.source} is {size} but its intrinsics are for {camera.width}x{camera.height}: sizes must be equal")
        return Sample(
            dataset=self.dataset,
            sequence=self.name,
            frame_names=tuple(record.name for record in chosen),
            images=images,
            times_s=None if any(record.time_s is None for record in chosen) else np.array([record.time_s for record in chosen], np.float64),
            cameras=None if all(record.camera is None for record in self.records) else tuple(record.camera for record in chosen),
            world_from_camera=None if self.world_from_camera is None else self.world_from_camera[list(frames)],
            depth_m=self._maps([record.read_depth for record in chosen], [record.read_depth for record in self.records], images, np.float32),
            masks=self._maps([record.read_mask for record in chosen], [record.read_mask for record in self.records], images, np.int32),
            tracks=None if self._tracks is None else self._tracks.at_frames(frames),
            objects=tuple(item.at_frames(frames) for item in self.objects),
            text=self.text,
            unit=self.unit,
            mask_known=self._mask_known(chosen),
            attributes=self.attributes,
        )

    def _mask_known(self, chosen: list[FrameRecord]) -> NDArray[np.bool_] | None:
        """(T,) which frames have a mask, when some of the sequence have and others have not."""
        has_mask = [record.read_mask is not None for record in self.records]
        return np.array([record.read_mask is not None for record in chosen]) if any(has_mask) and not all(has_mask) else None

    def _maps(self, chosen: list, everywhere: list, images: tuple[NDArray, ...], dtype: type) -> tuple[NDArray, ...] | None:
        """One map for each image, zeros for a frame without; None when no frame of the sequence has one."""
        if all(read is None for read in everywhere):
            return None
        return tuple(np.zeros(image.shape[:2], dtype) if read is None else read() for read, image in zip(chosen, images, strict=True))


@dataclass(frozen=True, kw_only=True)
class NoOptions(Checked):
    """A data set without choices."""


class Dataset(ABC):
    """A copy of a data set on disk.

    Opening lists the names of its sequences and reads no frame. `Options` is the config of a set that has choices (subset, variant).
    Raises InputError when the folder is not in the layout; the message names the first file that is missing.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Checked]] = NoOptions

    def __init__(self, root: str | Path, options: Checked | None = None) -> None:
        self.root = Path(root)
        self.options = options if options is not None else self.Options()
        if not self.root.exists():
            raise InputError(f"{self.name} {self.root}: no such file or folder")
        self.sequence_names = self._list_sequences()
        if not self.sequence_names:
            raise InputError(f"{self.name} {self.root}: holds no sequences in the layout of this data set")

    @abstractmethod
    def _list_sequences(self) -> tuple[str, ...]:
        """Names of the sequences, sorted; cheap."""

    @abstractmethod
    def open_sequence(self, name: str) -> FrameSequence:
        """The sequence of this name, its annotations read and its frames listed."""

    def __len__(self) -> int:
        return len(self.sequence_names)

    def __getitem__(self, index: int) -> FrameSequence:
        return self.open_sequence(self.sequence_names[index])
