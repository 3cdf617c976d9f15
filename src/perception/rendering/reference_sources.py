"""Where an object is learnt from: posed frames in a folder, a bag with poses, or a mesh that is rendered from all sides."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera, Frame, ReferenceView
from perception.geometry import se3
from perception.io import bag_messages, meshes
from perception.io.bags import BagReader, PoseTrack
from perception.io.posed_frames import PosedFrameFolder
from perception.io.videos import VIDEO_SUFFIXES
from perception.rendering.raycast import MeshScene, render
from perception.rendering.viewpoints import cameras_around

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(Checked):
    """How reference views are taken from a folder of posed frames, a bag or a mesh."""

    stride: Annotated[int, Range(1, None, "frames")] = 5
    """Take every n-th frame of a clip."""
    start_frame: Annotated[int, Range(0, None, "frames")] = 0
    """First frame of a clip that is taken."""
    end_frame: Annotated[int, Range(0, None, "frames")] = 0
    """Frame of a clip before which to stop; 0 takes all."""
    colour_focal_px: Annotated[float, Range(0.0, None, "px")] = 0.0
    """Focal length of the colour camera of a folder of posed frames; 0 takes 525 for the 7-Scenes cameras, else the folder's intrinsics."""
    image_topic: str = ""
    """Image topic of a bag; empty takes the only colour image topic."""
    camera_info_topic: str = ""
    """CameraInfo topic of a bag; empty takes the one beside the image topic."""
    depth_topic: str = ""
    """Depth image topic of a bag, registered to the image; empty: no depth."""
    pose_topic: str = ""
    """PoseStamped, Odometry or TF topic of a bag; empty takes the only one."""
    pose_meaning: Literal["auto", "world_from_camera", "camera_from_object"] = "auto"
    """What a bag's poses say; auto: poses given in the image's frame are camera_from_object, all others world_from_camera."""
    max_pose_gap_s: Annotated[float, Range(0.0, None, "s")] = 0.2
    """A frame between two poses farther apart than this is left out."""
    num_viewpoints: Annotated[int, Range(1, 5000)] = 96
    """Views rendered of a mesh: 12, 42, 162 or 642 of an icosphere, any other number spread evenly over the sphere."""
    mesh_scale: Annotated[float, Range(1e-6, 1e6)] = 1.0
    """Metres for one unit of the mesh file: 0.001 for millimetres."""
    render_size_px: Annotated[int, Range(16, 4096, "px")] = 512
    """Width and height of rendered views."""
    render_focal_px: Annotated[float, Range(1.0, None, "px")] = 560.0
    """Focal length of rendered views."""
    render_distance: Annotated[float, Range(0.1, 100.0, "box sides")] = 2.0
    """Distance of the rendering camera from the object's centre, in lengths of the longest side of its bounding box."""
    render_supersampling: Annotated[int, Range(1, 8)] = 2
    """Rays along each side of a pixel where there is contrast."""


class ReferenceSource(Protocol):
    """Reference views to iterate over (anew each time). kind is `frames`, `bag` or `mesh`; len() is the most views there will be. Frames and meshes
    also give single views by number."""

    kind: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ReferenceView]: ...


def open_references(source: str, config: ReferenceConfig | None = None) -> ReferenceSource:
    """The reference views of a path. Raises InputError for anything but a folder of posed frames, a bag with poses or a mesh file."""
    config, path = config or ReferenceConfig(), Path(source)
    kinds = "a folder of posed frames (frame-000000.color.jpg, ...), a rosbag2 (folder, .mcap or .db3) or a mesh"
    if not path.exists():
        raise InputError(f"reference source {source!r}: no such file or folder; it must be {kinds} ({', '.join(meshes.MESH_SUFFIXES)})")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(f"reference source {source} is a video: it has no camera poses, and without them no object can be learnt; use {kinds}")
    if path.suffix.lower() in meshes.MESH_SUFFIXES:
        return MeshReferences(path, config)
    if path.suffix in (".mcap", ".db3") or (path / "metadata.yaml").is_file() or _holds(path, "*.mcap", "*.db3"):
        return BagReferences(path, config)
    if _holds(path, "*.color.*"):
        return FrameReferences(path, config)
    raise InputError(f"reference source {source} is none of: {kinds} ({', '.join(meshes.MESH_SUFFIXES)})")


def _holds(path: Path, *patterns: str) -> bool:
    return path.is_dir() and any(True for pattern in patterns for _ in path.glob(pattern))


def _chosen(num_frames: int, config: ReferenceConfig, where: str) -> range:
    """Indices of the frames that are taken. Raises InputError when there are none."""
    indices = range(config.start_frame, min(num_frames, config.end_frame or num_frames), config.stride)
    if not indices:
        raise InputError(f"{where} has {num_frames} frames: none from {config.start_frame} to {config.end_frame or 'the end'}")
    return indices


class FrameReferences:
    """Every n-th frame of a folder of posed frames; the world is the object."""

    kind = "frames"

    def __init__(self, path: Path, config: ReferenceConfig) -> None:
        self._folder = PosedFrameFolder(path, config.colour_focal_px)
        self._indices = _chosen(len(self._folder), config, f"folder {path}")

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> ReferenceView:
        posed = self._folder[self._indices[number]]
        return ReferenceView(posed.frame, se3.inverse(posed.world_from_camera))

    def __iter__(self) -> Iterator[ReferenceView]:
        return (self[number] for number in range(len(self)))


class MeshReferences:
    """A mesh rendered from viewpoints all around it, on black, with its silhouette as mask."""

    kind = "mesh"

    def __init__(self, path: Path, config: ReferenceConfig) -> None:
        self._mesh = meshes.load(path, config.mesh_scale)
        self._config = config
        longest_side_m = float((self._mesh.bounds[1] - self._mesh.bounds[0]).max())
        if not longest_side_m > 0:
            raise InputError(f"mesh {path}: all its vertices lie in one point")
        size, focal = config.render_size_px, config.render_focal_px
        self._camera = Camera(size, size, focal, focal, (size - 1) / 2, (size - 1) / 2)
        self._poses = cameras_around(self._mesh.center, config.render_distance * longest_side_m, config.num_viewpoints)

    def __len__(self) -> int:
        return len(self._poses)

    @cached_property
    def _scene(self) -> MeshScene:
        return MeshScene({self._mesh.name: (self._mesh, np.eye(4))})

    def __getitem__(self, number: int) -> ReferenceView:
        pose = self._poses[number]
        view = render(self._scene, self._camera, pose, background=(0, 0, 0), supersampling=self._config.render_supersampling)
        frame = Frame(view.image, number + 1, self._camera, source=self._mesh.name, depth_m=view.depth_m, mask=view.mask)
        return ReferenceView(frame, pose, view.normals)

    def __iter__(self) -> Iterator[ReferenceView]:
        return (self[number] for number in range(len(self)))


class BagReferences:
    """Every n-th image of a bag for which there is a pose. Frames without one are left out, and the log says how many."""

    kind = "bag"

    def __init__(self, path: Path, config: ReferenceConfig) -> None:
        self._path, self._config = path, config
        with BagReader(path) as bag:
            self._image_topic = config.image_topic or _only_image_topic(bag, config.depth_topic)
            bag.require(self._image_topic, bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)
            self._camera_info_topic = config.camera_info_topic or bag.camera_info_topic_of(self._image_topic) or ""
            bag.require(self._camera_info_topic or "camera_info", bag_messages.CAMERA_INFO)
            self._pose_topic = config.pose_topic or _only_pose_topic(bag)
            image_frame_id = next(iter(bag.messages([self._image_topic]))).message.header.frame_id
            is_transforms = bag.require(self._pose_topic) == bag_messages.TRANSFORMS
            self._poses = bag.poses(self._pose_topic, child_frame_id=image_frame_id if is_transforms else "")
            self._indices = _chosen(bag.topics[self._image_topic].num_messages, config, f"topic {self._image_topic} of bag {path}")
        in_camera = self._poses.frame_id == image_frame_id
        meaning = config.pose_meaning if config.pose_meaning != "auto" else ("camera_from_object" if in_camera else "world_from_camera")
        self._poses_are_inverse = meaning == "world_from_camera"

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[ReferenceView]:
        num_without = 0
        with BagReader(self._path) as bag:
            frames = bag.frames(self._image_topic, self._camera_info_topic, self._config.depth_topic or None)
            for index, frame in enumerate(frames):
                if index >= self._indices.stop:
                    break
                if index not in self._indices:
                    continue
                pose = pose_at(self._poses, frame.time_ns, self._config.max_pose_gap_s)
                if pose is None:
                    num_without += 1
                    continue
                yield ReferenceView(frame, se3.inverse(pose) if self._poses_are_inverse else pose)
        if num_without:
            log.warning("bag %s: %d of %d reference frames have no pose on %s", self._path, num_without, len(self), self._pose_topic)


def _only_image_topic(bag: BagReader, depth_topic: str) -> str:
    found = [topic for topic in bag.find_topics(bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE) if topic != depth_topic and "depth" not in topic]
    if len(found) != 1:
        raise InputError(f"bag {bag.path} has {len(found)} colour image topics ({', '.join(found) or 'none'}): set image_topic")
    return found[0]


def _only_pose_topic(bag: BagReader) -> str:
    kinds = (bag_messages.POSE_STAMPED, bag_messages.POSE_WITH_COVARIANCE_STAMPED, bag_messages.ODOMETRY)
    found = bag.find_topics(*kinds) or [topic for topic in bag.find_topics(bag_messages.TRANSFORMS) if not topic.endswith("tf_static")]
    if len(found) != 1:
        allowed = ", ".join((*kinds, bag_messages.TRANSFORMS))
        raise InputError(f"bag {bag.path} has {len(found)} topics with poses ({', '.join(found) or 'none'}): set pose_topic to one of type {allowed}")
    return found[0]


def pose_at(track: PoseTrack, time_ns: int, max_gap_s: float) -> NDArray[np.float64] | None:
    """The pose (4, 4) at a time, interpolated between its neighbours; None outside the track or where they are farther apart than `max_gap_s`."""
    after = int(np.searchsorted(track.times_ns, time_ns))
    if after < len(track.times_ns) and track.times_ns[after] == time_ns:
        return track.parent_from_child[after]
    if after in (0, len(track.times_ns)):
        return None
    start_ns, end_ns = int(track.times_ns[after - 1]), int(track.times_ns[after])
    if (end_ns - start_ns) * 1e-9 > max_gap_s:
        return None
    return se3.interpolate(track.parent_from_child[after - 1], track.parent_from_child[after], (time_ns - start_ns) / (end_ns - start_ns))
