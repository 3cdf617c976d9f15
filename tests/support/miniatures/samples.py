"""The miniature scene as samples and as a data set in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.support.miniatures.scene import BOX_SIZE_M, miniature_scene

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.data.sample import ObjectTrack, Sample, Tracks
from perception_training.data.sequences import Dataset, FrameRecord, FrameSequence, RecordedSequence


def scene_tracks(num_frames: int = 4, width: int = 160, height: int = 120) -> Tracks:
    """The scene's surface points through all frames."""
    scene = miniature_scene(num_frames, width, height)
    world = np.broadcast_to(scene.points_world, (num_frames, *scene.points_world.shape)).astype(np.float32)
    queries = np.zeros(scene.points_world.shape[0], np.int64)
    return Tracks(scene.points_px.astype(np.float32), scene.visible, world, queries)


def scene_objects(num_frames: int = 4, width: int = 160, height: int = 120) -> tuple[ObjectTrack, ...]:
    """The scene's box, with its bounds."""
    half = np.array(BOX_SIZE_M) / 2
    poses = miniature_scene(num_frames, width, height).camera_from_object("box")
    return (ObjectTrack("box", poses, mask_id=1, bounds=np.stack([-half, half]), mesh=Path("box.ply"), visible_share=np.ones(num_frames)),)


def scene_sample(num_frames: int = 4, width: int = 160, height: int = 120) -> Sample:
    """A sample that has every field."""
    scene = miniature_scene(num_frames, width, height)
    return Sample(
        dataset="miniature",
        sequence="scene",
        frame_names=tuple(f"frame{number}" for number in range(num_frames)),
        images=scene.images,
        times_s=np.arange(num_frames) / 30,
        cameras=scene.cameras,
        world_from_camera=scene.world_from_camera,
        depth_m=scene.depth_m,
        masks=scene.masks,
        normals=tuple(np.nan_to_num(normals) for normals in scene.normals),
        dynamic=tuple(mask == 2 for mask in scene.masks),
        tracks=scene_tracks(num_frames, width, height),
        objects=scene_objects(num_frames, width, height),
        text="a box and a ball",
    )


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
        scene = miniature_scene(8, choices.width, choices.height)
        number = frame % len(scene)
        path = Path(f"/miniature/s{sequence}/{frame:04d}.png")
        image = scene.images[number].copy()
        image[0] = (sequence, frame % 256, frame // 256)
        read_image = partial(unreadable, path) if f"s{sequence}/{frame}" in choices.bad else partial(np.copy, image)
        if not choices.has_depth:
            return FrameRecord(f"{frame:04d}", path, read_image)
        depth, mask = scene.depth_m[number], scene.masks[number]
        pose = scene.world_from_camera[number]
        return FrameRecord(f"{frame:04d}", path, read_image, scene.cameras[number], pose, partial(np.copy, depth), partial(np.copy, mask), frame / 30)


def unreadable(path: Path) -> NDArray[np.uint8]:
    """What a damaged file does."""
    raise InputError(f"image {path}: 12 bytes that cannot be decoded: truncated, or not an image")


def identity_of(image: NDArray[np.uint8]) -> tuple[int, int]:
    """(sequence, frame) of an image (height, width, 3) of a MiniatureDataset that was not augmented."""
    return int(image[0, 0, 0]), int(image[0, 0, 1]) + 256 * int(image[0, 0, 2])
