"""Where a frame of a robot is over time, from the transforms in a bag: the chain of parents from the camera up to its root.

Topics /tf (moving) and /tf_static (fixed) as in ROS REP 105 and the package tf2_ros.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io import bag_messages, ros_images
from perception.io.bags import BagReader, PoseTrack

TF_TOPIC, TF_STATIC_TOPIC = "/tf", "/tf_static"
_MAX_CHAIN = 64


@dataclass(frozen=True, eq=False)
class TransformTree:
    """Each frame's parent: fixed (parent, parent_from_child), or moving. A frame that is in both counts as moving."""

    fixed: dict[str, tuple[str, NDArray[np.float64]]]
    moving: dict[str, PoseTrack]

    def chain(self, frame_id: str, root: str = "") -> tuple[str, ...]:
        """Frames from this one up to `root`, or up to the one without a parent. Raises InputError for a chain that does not reach `root`."""
        found = [frame_id]
        while found[-1] != root and len(found) < _MAX_CHAIN:
            parent = self._parent(found[-1])
            if parent is None:
                break
            found.append(parent)
        if len(found) == _MAX_CHAIN or (root and found[-1] != root):
            raise InputError(f"transforms lead from {frame_id!r} to {' → '.join(found[1:6]) or 'nowhere'}: must lead to {root or 'a root'!r}")
        return tuple(found)

    def _parent(self, frame_id: str) -> str | None:
        if frame_id in self.moving:
            return self.moving[frame_id].frame_id
        return self.fixed[frame_id][0] if frame_id in self.fixed else None

    def moves(self, chain: tuple[str, ...]) -> bool:
        """Whether any link of the chain is moving: without one, nothing is known of where in the world the root is."""
        return any(frame_id in self.moving for frame_id in chain[:-1])

    def root_from_frame(self, chain: tuple[str, ...], time_ns: int, max_delay_ns: int) -> NDArray[np.float64] | None:
        """(4, 4) pose at this time, from the nearest stamps; None where a link has none near enough."""
        pose = np.eye(4)
        for frame_id in chain[:-1]:
            link = self.moving[frame_id].nearest(time_ns, max_delay_ns) if frame_id in self.moving else self.fixed[frame_id][1]
            if link is None:
                return None
            pose = link @ pose
        return pose


def read_transforms(bag: BagReader, pose_topic: str = "", pose_of: str = "") -> TransformTree:
    """The transforms of a bag; with a pose topic, its poses (of `pose_of`, unless they name their frame) stand for all moving ones."""
    transforms = bag.find_topics(bag_messages.TRANSFORMS)
    fixed = {}
    for topic in (topic for topic in transforms if topic.endswith(TF_STATIC_TOPIC)):
        for item in bag.messages([topic]):
            for stamped in item.message.transforms:
                matrix = bag_messages.matrix_from(stamped.transform.translation, stamped.transform.rotation)
                fixed[stamped.child_frame_id] = (stamped.header.frame_id, matrix)
    if pose_topic:
        track = bag.poses(pose_topic)
        return TransformTree(fixed, {track.child_frame_id or pose_of: track})
    return TransformTree(fixed, _moving(bag, [topic for topic in transforms if topic.endswith(TF_TOPIC)]))


def _moving(bag: BagReader, topics: list[str]) -> dict[str, PoseTrack]:
    entries: defaultdict[tuple[str, str], dict[int, NDArray[np.float64]]] = defaultdict(dict)
    for topic in topics:
        for item in bag.messages([topic]):
            for stamped in item.message.transforms:
                matrix = bag_messages.matrix_from(stamped.transform.translation, stamped.transform.rotation)
                entries[stamped.child_frame_id, stamped.header.frame_id][ros_images.stamp_ns(stamped.header.stamp)] = matrix
    tracks: dict[str, PoseTrack] = {}
    for (child, parent), poses in entries.items():
        if child in tracks:
            raise InputError(f"bag {bag.path}: {child!r} has the parents {tracks[child].frame_id!r} and {parent!r}; must have one")
        times = sorted(poses)
        tracks[child] = PoseTrack(np.array(times, np.int64), np.stack([poses[time_ns] for time_ns in times]), parent, child)
    return tracks
