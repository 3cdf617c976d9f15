"""Write and read rosbag2 (SQLite3 and MCAP) without a ROS installation: the only door to rosbags."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import get_types_from_msg

from perception.core.errors import InputError
from perception.core.types import Camera, Frame
from perception.io import bag_messages, ros_images
from perception.io.bag_storage import open_storages

StorageName = Literal["mcap", "sqlite3"]
Compression = Literal["none", "zstd"]

MAX_DEPTH_DELAY_NS = 20_000_000
"""A depth image belongs to a colour image when their stamps differ by no more than this."""


@dataclass(frozen=True)
class TopicSummary:
    """Type and number of messages of one topic."""

    type_name: str
    num_messages: int


@dataclass(frozen=True)
class BagMessage:
    """A decoded message; `time_ns` is when it was recorded (its own stamp is in its header)."""

    topic: str
    type_name: str
    time_ns: int
    message: Any


@dataclass(frozen=True)
class RawMessage:
    """A message as CDR bytes, ready to be published or written again; `time_ns` is when it was recorded."""

    topic: str
    type_name: str
    time_ns: int
    data: bytes


@dataclass(frozen=True, eq=False)
class PoseTrack:
    """Poses over time: times_ns (num,) int64 rising · parent_from_child (num, 4, 4) float64 · names of the two frames (child may be empty)."""

    times_ns: NDArray[np.int64]
    parent_from_child: NDArray[np.float64]
    frame_id: str
    child_frame_id: str

    def nearest(self, time_ns: int, max_difference_ns: int) -> NDArray[np.float64] | None:
        """The pose (4, 4) whose stamp is nearest, or None when it is farther away than `max_difference_ns`."""
        index = int(np.abs(self.times_ns - time_ns).argmin())
        return self.parent_from_child[index] if abs(int(self.times_ns[index]) - time_ns) <= max_difference_ns else None


def _qos(latched: bool) -> Qos:
    no_limit = QosTime(9223372036, 854775807)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    depth = 1 if latched else 10
    return Qos(QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, durability, no_limit, no_limit, QosLiveliness.AUTOMATIC, no_limit, False)


class BagWriter:
    """Writes one bag folder; use it as a context manager. What was written stays readable when the block is left by an exception.

    storage: mcap or sqlite3 · compression: zstd of whole chunks (mcap) or of each message (sqlite3) · overwrite: delete an older bag there.
    Raises InputError when `path` exists and `overwrite` is off, or exists and is not a bag.
    """

    def __init__(self, path: str | Path, storage: StorageName = "mcap", compression: Compression = "none", overwrite: bool = False) -> None:
        self.path = Path(path)
        if storage not in ("mcap", "sqlite3"):
            raise InputError(f"bag storage {storage!r}: must be mcap or sqlite3")
        if compression not in ("none", "zstd"):
            raise InputError(f"bag compression {compression!r}: must be none or zstd")
        if self.path.exists():
            if not overwrite:
                raise InputError(f"bag {self.path} exists: choose another path or overwrite it")
            if not _looks_like_bag(self.path):
                raise InputError(f"{self.path} exists and is not a bag: it is not overwritten")
            shutil.rmtree(self.path)
        # Version 8 writes QoS profiles so that Humble and Iron read them too.
        self._writer = Writer(self.path, version=8, storage_plugin=StoragePlugin[storage.upper()])
        if compression == "zstd":
            self._writer.set_compression(CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE, CompressionFormat.ZSTD)
        self._connections: dict[tuple[str, str], Any] = {}
        self._writer.open()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write index and metadata. Idempotent."""
        if self._writer.storage is not None:
            self._writer.close()

    def add_topic(self, topic: str, type_name: str, definition: str | None = None, latched: bool = False) -> None:
        """Announce a topic before its first message: needed for latched topics and for types that rosbags does not know.

        definition: the text of the .msg file; without it an unknown type is written without one, and only readers that have the type decode it.
        """
        if (topic, type_name) in self._connections:
            return
        store, known = bag_messages.typestore(), {}
        if type_name not in store.types:
            if definition:
                store.register({name: fields for name, fields in get_types_from_msg(definition, type_name).items() if name not in store.types})
            else:
                known = {"msgdef": "", "rihs01": "RIHS01_" + "0" * 64}
        try:
            connection = self._writer.add_connection(topic, type_name, typestore=store, offered_qos_profiles=[_qos(latched)], **known)
        except WriterError as error:
            raise InputError(f"bag {self.path}: topic {topic} of type {type_name} cannot be added ({error})") from error
        self._connections[topic, type_name] = connection

    def write_raw(self, topic: str, type_name: str, data: bytes | memoryview, time_ns: int) -> None:
        """Write CDR bytes as they came over the wire; `time_ns` is the time of recording."""
        self.add_topic(topic, type_name)
        try:
            self._writer.write(self._connections[topic, type_name], time_ns, data)
        except WriterError as error:
            raise InputError(f"bag {self.path}: cannot write to {topic} ({error})") from error

    def write_message(self, topic: str, message: Any, time_ns: int) -> None:
        """Write a message object of rosbags (see bag_messages, or a message that a BagReader gave)."""
        type_name = message.__msgtype__
        self.write_raw(topic, type_name, bag_messages.typestore().serialize_cdr(message, type_name), time_ns)

    def write_image(self, topic: str, time_ns: int, image: NDArray, encoding: str = "rgb8", frame_id: str = "") -> None:
        """sensor_msgs/Image; 16-bit depth in mm is `16UC1`, float depth in m is `32FC1`."""
        self.write_message(topic, bag_messages.image(time_ns, image, encoding, frame_id), time_ns)

    def write_compressed_image(self, topic: str, time_ns: int, image: NDArray, codec: str = "jpeg", frame_id: str = "", quality: int = 90) -> None:
        """sensor_msgs/CompressedImage of an RGB image (jpeg, png) or of 16-bit depth (png)."""
        self.write_message(topic, bag_messages.compressed_image(time_ns, image, codec, frame_id, quality), time_ns)

    def write_camera_info(self, topic: str, time_ns: int, camera: Camera, frame_id: str = "") -> None:
        """sensor_msgs/CameraInfo."""
        self.write_message(topic, bag_messages.camera_info(time_ns, camera, frame_id), time_ns)

    def write_pose(self, topic: str, time_ns: int, parent_from_child: NDArray, frame_id: str) -> None:
        """geometry_msgs/PoseStamped; `frame_id` names the parent."""
        self.write_message(topic, bag_messages.pose_stamped(time_ns, parent_from_child, frame_id), time_ns)

    def write_odometry(self, topic: str, time_ns: int, parent_from_child: NDArray, frame_id: str, child_frame_id: str) -> None:
        """nav_msgs/Odometry."""
        self.write_message(topic, bag_messages.odometry(time_ns, parent_from_child, frame_id, child_frame_id), time_ns)

    def write_transform(self, time_ns: int, parent_from_child: NDArray, frame_id: str, child_frame_id: str, topic: str = "/tf") -> None:
        """tf2_msgs/TFMessage with one transform."""
        self.write_message(topic, bag_messages.transforms(time_ns, parent_from_child, frame_id, child_frame_id), time_ns)

    def write_string(self, topic: str, time_ns: int, text: str) -> None:
        """std_msgs/String."""
        self.write_message(topic, bag_messages.string(text), time_ns)


def _looks_like_bag(path: Path) -> bool:
    return path.is_dir() and ((path / "metadata.yaml").is_file() or any(file.suffix in (".mcap", ".db3") for file in path.iterdir()))


class BagReader:
    """Reads a bag folder, or a bare .mcap or .db3 file; use it as a context manager.

    A bag whose recorder was killed (no metadata.yaml, MCAP cut off) is read as far as it goes, with a warning in the log.
    Raises InputError when `path` is not a bag, is damaged or holds no messages.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._storages = open_storages(self.path)
        self.topics: dict[str, TopicSummary] = {}
        self._definitions: dict[str, str] = {}
        for connection in (connection for storage in self._storages for connection in storage.connections):
            before = self.topics.get(connection.topic)
            total = connection.num_messages + (before.num_messages if before else 0)
            self.topics[connection.topic] = TopicSummary(connection.type_name, total)
            self._definitions[connection.type_name] = connection.definition
        if not any(topic.num_messages for topic in self.topics.values()):
            self.close()
            raise InputError(f"bag {self.path} holds no messages (topics: {', '.join(sorted(self.topics)) or 'none'})")

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Idempotent."""
        for storage in self._storages:
            storage.close()
        self._storages = []

    def require(self, topic: str, *type_names: str) -> str:
        """The type of `topic`. Raises InputError that lists the bag's topics when it is missing, without messages or of none of `type_names`."""
        found = self.topics.get(topic)
        if found is None:
            known = "\n".join(f"  {name} [{summary.type_name}] {summary.num_messages} messages" for name, summary in sorted(self.topics.items()))
            raise InputError(f"bag {self.path} has no topic {topic!r}; it has\n{known}")
        if type_names and found.type_name not in type_names:
            raise InputError(f"bag {self.path}: topic {topic} is of type {found.type_name}: must be {' or '.join(type_names)}")
        if not found.num_messages:
            raise InputError(f"bag {self.path}: topic {topic} has no messages")
        return found.type_name

    def find_topics(self, *type_names: str) -> list[str]:
        """Names of the topics of these types that have messages."""
        return sorted(name for name, topic in self.topics.items() if topic.type_name in type_names and topic.num_messages)

    def raw_messages(self, topics: Iterable[str] | None = None, between: tuple[int, int] | None = None) -> Iterator[RawMessage]:
        """All messages, or those of some topics, in the order of recording, as CDR bytes.

        between: (from, before) in ns of recording; what lies outside is skipped with the bag's index.
        """
        chosen = None if topics is None else set(topics)
        for topic in chosen or ():
            self.require(topic)
        num_read = 0
        for storage in self._storages:
            try:
                for item in storage.messages(chosen, between):
                    yield RawMessage(*item)
                    num_read += 1
            except Exception as error:  # SQLite, zstd and struct errors of a damaged file
                raise InputError(f"bag {self.path}: damaged after {num_read} messages ({error})") from error

    def messages(self, topics: Iterable[str] | None = None) -> Iterator[BagMessage]:
        """Like `raw_messages`, decoded. Raises InputError for a type of which neither the bag nor rosbags has a definition."""
        for raw in self.raw_messages(topics):
            yield BagMessage(raw.topic, raw.type_name, raw.time_ns, self.decode(raw))

    def decode(self, raw: RawMessage) -> Any:
        """The message object of one raw message."""
        store = bag_messages.typestore()
        if raw.type_name not in store.types:
            definition = self._definitions.get(raw.type_name, "")
            if not definition:
                raise InputError(f"bag {self.path}: type {raw.type_name} of topic {raw.topic} is unknown, and the bag has no definition of it")
            store.register({name: fields for name, fields in get_types_from_msg(definition, raw.type_name).items() if name not in store.types})
        try:
            return store.deserialize_cdr(raw.data, raw.type_name)
        except Exception as error:  # rosbags raises struct and assertion errors on short data
            raise InputError(f"bag {self.path}: message of {raw.topic} at {raw.time_ns} ns is not a {raw.type_name} ({error})") from error

    def camera_info_topic_of(self, image_topic: str) -> str | None:
        """The CameraInfo topic beside an image topic: same namespace (as image_transport has it), or the only one of the bag."""
        known = self.find_topics(bag_messages.CAMERA_INFO)
        parts = image_topic.split("/")
        for depth in (1, 2):  # /camera/image_raw and /camera/image_raw/compressed
            sibling = "/".join([*parts[:-depth], "camera_info"])
            if sibling in known:
                return sibling
        return known[0] if len(known) == 1 else None

    def frames(self, image_topic: str, camera_info_topic: str | None = None, depth_topic: str | None = None) -> Iterator[Frame]:
        """One Frame for each Image or CompressedImage, stamped with its header; RGB, with its camera and depth where topics are named.

        The camera is the CameraInfo with the nearest stamp. Depth must have the image's size and lie within MAX_DEPTH_DELAY_NS; a frame
        without such a depth image has none.
        """
        self.require(image_topic, bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)
        times, cameras = self.cameras(camera_info_topic) if camera_info_topic else (np.empty(0, np.int64), [])
        depths = self._depths(depth_topic) if depth_topic else None
        for item in self.messages([image_topic]):
            time_ns = ros_images.stamp_ns(item.message.header.stamp)
            camera = cameras[int(np.abs(times - time_ns).argmin())] if cameras else None
            depth_m = depths.at(time_ns) if depths else None
            try:
                frame = Frame(ros_images.message_to_rgb(item.message), time_ns, camera, item.message.header.frame_id, image_topic, depth_m)
            except InputError as error:
                raise InputError(f"bag {self.path}, topic {image_topic}, stamp {time_ns} ns: {error}") from error
            yield frame

    def cameras(self, topic: str) -> tuple[NDArray[np.int64], list[Camera]]:
        """Stamps in ns and cameras of a CameraInfo topic, in the order of recording. Raises InputError that names the stamp of an unusable one."""
        self.require(topic, bag_messages.CAMERA_INFO)
        times, cameras = [], []
        for item in self.messages([topic]):
            times.append(ros_images.stamp_ns(item.message.header.stamp))
            try:
                cameras.append(ros_images.camera_from_info(item.message))
            except InputError as error:
                raise InputError(f"bag {self.path}, topic {topic}, stamp {times[-1]} ns: {error}") from error
        return np.array(times, np.int64), cameras

    def _depths(self, topic: str) -> _DepthStream:
        self.require(topic, bag_messages.IMAGE, bag_messages.COMPRESSED_IMAGE)
        return _DepthStream(item.message for item in self.messages([topic]))

    def poses(self, topic: str, frame_id: str = "", child_frame_id: str = "") -> PoseTrack:
        """Poses of PoseStamped, PoseWithCovarianceStamped, Odometry or TFMessage by stamp. With several transforms name the frames."""
        kinds = (bag_messages.POSE_STAMPED, bag_messages.POSE_WITH_COVARIANCE_STAMPED, bag_messages.ODOMETRY, bag_messages.TRANSFORMS)
        self.require(topic, *kinds)
        found: dict[tuple[str, str], list[tuple[int, NDArray]]] = {}
        for item in self.messages([topic]):
            for time_ns, parent, child, matrix in _poses_of(item):
                if frame_id in ("", parent) and child_frame_id in ("", child):
                    found.setdefault((parent, child), []).append((time_ns, matrix))
        if len(found) != 1:
            pairs = ", ".join(f"{parent} ← {child}" for parent, child in found) or "none"
            raise InputError(
                f"bag {self.path}: topic {topic} must hold one pair of frames for {frame_id or '*'} ← {child_frame_id or '*'}; found {pairs}"
            )
        [((parent, child), entries)] = found.items()
        entries.sort(key=lambda entry: entry[0])
        return PoseTrack(np.array([time_ns for time_ns, _ in entries], np.int64), np.stack([matrix for _, matrix in entries]), parent, child)


class _DepthStream:
    """Walks along the depth images of a bag beside its colour images; holds two of them."""

    def __init__(self, messages: Iterator[Any]) -> None:
        self._messages = messages
        self._before: Any = None
        self._after: Any = next(messages, None)

    def at(self, time_ns: int) -> NDArray[np.float32] | None:
        while self._after is not None and ros_images.stamp_ns(self._after.header.stamp) < time_ns:
            self._before, self._after = self._after, next(self._messages, None)
        candidates = [message for message in (self._before, self._after) if message is not None]
        nearest = min(candidates, key=lambda message: abs(ros_images.stamp_ns(message.header.stamp) - time_ns))
        if abs(ros_images.stamp_ns(nearest.header.stamp) - time_ns) > MAX_DEPTH_DELAY_NS:
            return None
        return ros_images.message_to_depth(nearest)


def _poses_of(item: BagMessage) -> Iterator[tuple[int, str, str, NDArray]]:
    """(stamp in ns, parent, child, parent_from_child) of one message."""
    message = item.message
    if item.type_name == bag_messages.TRANSFORMS:
        for stamped in message.transforms:
            matrix = bag_messages.matrix_from(stamped.transform.translation, stamped.transform.rotation)
            yield ros_images.stamp_ns(stamped.header.stamp), stamped.header.frame_id, stamped.child_frame_id, matrix
        return
    pose = message.pose if item.type_name == bag_messages.POSE_STAMPED else message.pose.pose
    matrix = bag_messages.matrix_from(pose.position, pose.orientation)
    yield ros_images.stamp_ns(message.header.stamp), message.header.frame_id, getattr(message, "child_frame_id", ""), matrix
