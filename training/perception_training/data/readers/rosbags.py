"""ROS 2 bags (MCAP or SQLite): every topic of colour images is a sequence, with its camera, depth and poses where the bag has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError, unknown_name
from perception.core.types import Camera
from perception.io.bags import MAX_DEPTH_DELAY_NS, BagReader
from perception_training.data.layouts.bag_images import (
    ImageEntry,
    ImageTopic,
    describe_topics,
    list_images,
    open_bag,
    read_bag_depth,
    read_bag_image,
)
from perception_training.data.layouts.bag_transforms import read_transforms
from perception_training.data.sequences import Dataset, FrameRecord, RecordedSequence

BAG_SUFFIXES = (".mcap", ".db3")


@dataclass(frozen=True, kw_only=True)
class RosbagOptions(Checked):
    """Which topics of a bag are read."""

    image_topics: tuple[str, ...] = ()
    """Topics of colour images; none: all that the bag has."""
    depth_topic: str = ""
    """Depth registered to the images; empty: the only depth topic of their size and frame, if there is one."""
    pose_topic: str = ""
    """Poses of the camera, or of a frame that /tf_static places it in; empty: the moving transforms of /tf, if they lead to the camera."""
    world_frame: str = ""
    """Frame that poses are given in; empty: the root of the transforms above the camera."""
    max_pose_delay_s: Annotated[float, Range(0.0, None, "s")] = 0.05
    """A frame has a pose only when one is stamped as near as this."""


class Rosbags(Dataset):
    """ROS 2 bags: images with camera, registered depth and camera poses where they were recorded."""

    name: ClassVar[str] = "rosbags"
    Options: ClassVar[type[Checked]] = RosbagOptions
    options: RosbagOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._places: dict[str, tuple[Path, str]] = {}
        for bag in _find_bags(self.root):
            label = self.root.resolve().name if bag == self.root else bag.relative_to(self.root).as_posix()
            for topic in self._topics(bag):
                self._places[f"{label}:{topic}"] = (bag, topic)
        return tuple(sorted(self._places))

    def _topics(self, path: Path) -> list[str]:
        """Topics of the bag to read; one without a name for a bag that cannot be opened, so that it is reported when it is its turn."""
        try:
            bag = open_bag(path)
        except InputError:
            return [""]
        if self.options.image_topics:
            return [topic for topic in self.options.image_topics if topic in bag.topics]
        return [topic.name for topic in describe_topics(bag) if not topic.is_depth]

    def open_sequence(self, name: str) -> RecordedSequence:
        if name not in self._places:
            raise unknown_name(f"{self.name} {self.root}: sequence", name, self._places)
        path, topic = self._places[name]
        bag = open_bag(path)
        entries = list_images(path, topic)
        described = describe_topics(bag)
        image = next((item for item in described if item.name == topic), ImageTopic(topic, False, (0, 0), ""))
        depth_topic = self.options.depth_topic or _registered_depth(described, image)
        depths = list_images(path, depth_topic) if depth_topic else ()
        cameras, poses = _cameras(bag, topic, entries), self._poses(bag, image, entries)
        records = tuple(
            FrameRecord(
                name=str(entry.stamp_ns),
                source=path,
                read_image=partial(read_bag_image, path, topic, entry),
                camera=camera,
                world_from_camera=pose,
                read_depth=partial(read_bag_depth, path, depth_topic, depth) if depth is not None else None,
                time_s=(entry.stamp_ns - entries[0].stamp_ns) * 1e-9,
            )
            for entry, depth, camera, pose in zip(entries, _nearest(depths, entries), cameras, poses, strict=True)
        )
        return RecordedSequence(self.name, name, records)

    def _poses(self, bag: BagReader, image: ImageTopic, entries: tuple[ImageEntry, ...]) -> list[NDArray[np.float64] | None]:
        tree = read_transforms(bag, self.options.pose_topic, image.frame_id)
        try:
            chain = tree.chain(image.frame_id, self.options.world_frame)
        except InputError as error:
            raise InputError(f"bag {bag.path}: {error}") from error
        if not tree.moves(chain):
            if self.options.pose_topic:
                raise InputError(f"bag {bag.path}: poses of {self.options.pose_topic} and /tf_static do not lead to the camera {image.frame_id!r}")
            return [None] * len(entries)
        return [tree.root_from_frame(chain, entry.stamp_ns, round(self.options.max_pose_delay_s * 1e9)) for entry in entries]


def _find_bags(root: Path) -> list[Path]:
    """Bags at or below `root`: folders with metadata.yaml, and files that lie in none."""
    if root.is_file() or (root / "metadata.yaml").is_file():
        return [root]
    folders = sorted(path.parent for path in root.rglob("metadata.yaml"))
    files = sorted(path for path in root.rglob("*") if path.suffix in BAG_SUFFIXES and path.parent not in folders)
    return [*folders, *files]


def _registered_depth(topics: list[ImageTopic], image: ImageTopic) -> str:
    """Depth that shares size and frame with the images is registered to them; with several, none is chosen."""
    fitting = [item.name for item in topics if item.is_depth and item.size == image.size and item.frame_id == image.frame_id]
    return fitting[0] if len(fitting) == 1 else ""


def _nearest(candidates: tuple[ImageEntry, ...], entries: tuple[ImageEntry, ...]) -> list[ImageEntry | None]:
    """For each entry the candidate with the nearest stamp, None where it is too far away."""
    stamps = np.array([item.stamp_ns for item in candidates], np.int64)
    found: list[ImageEntry | None] = []
    for entry in entries:
        index = int(np.abs(stamps - entry.stamp_ns).argmin()) if len(stamps) else -1
        is_near = index >= 0 and abs(int(stamps[index]) - entry.stamp_ns) <= MAX_DEPTH_DELAY_NS
        found.append(candidates[index] if is_near else None)
    return found


def _cameras(bag: BagReader, topic: str, entries: tuple[ImageEntry, ...]) -> list[Camera | None]:
    """The camera with the nearest stamp; None for all where the bag has no CameraInfo beside the images."""
    info_topic = bag.camera_info_topic_of(topic)
    if info_topic is None:
        return [None] * len(entries)
    stamps, cameras = bag.cameras(info_topic)
    return [cameras[int(np.abs(stamps - entry.stamp_ns).argmin())] for entry in entries]
