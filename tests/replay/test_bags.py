import dataclasses

import numpy as np
import pytest
from tests.support.closeness import assert_close

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.io import bag_messages
from perception.io.bags import BagReader, BagWriter

CAMERA = Camera(32, 24, 40.0, 41.0, 15.5, 11.5, "plumb_bob", (0.1, -0.05, 0.001, 0.002, 0.0))
STORAGES = [("mcap", "none"), ("mcap", "zstd"), ("sqlite3", "none"), ("sqlite3", "zstd")]
STEP_NS = 100_000_000


def picture(index):
    return np.random.default_rng(index).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def camera_pose(index):
    return se3.exp(np.array([0.1 * index, -0.2, 1.0, 0.3, 0.02 * index, -0.1]))


def write_bag(path, storage="mcap", compression="none", num=5):
    with BagWriter(path, storage, compression) as writer:
        for index in range(num):
            time_ns = 1_700_000_000_123_456_789 + index * STEP_NS
            writer.write_image("/camera/image_raw", time_ns, picture(index), "rgb8", "camera_optical")
            writer.write_camera_info("/camera/camera_info", time_ns, CAMERA, "camera_optical")
            writer.write_image("/camera/depth", time_ns + 5_000_000, np.full((24, 32), 1000 + index, np.uint16), "16UC1", "camera_optical")
            writer.write_compressed_image("/camera/image_raw/compressed", time_ns, picture(index), "png", "camera_optical")
            writer.write_pose("/pose", time_ns, camera_pose(index), "map")
            writer.write_odometry("/odometry", time_ns, camera_pose(index), "odom", "base")
            writer.write_transform(time_ns, camera_pose(index), "map", "camera_optical")
            writer.write_transform(time_ns, np.eye(4), "map", "table")
            writer.write_string("/notes", time_ns, f"note {index}")
    return path


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
def test_round_trip(tmp_path, storage, compression):
    path = write_bag(tmp_path / "bag", storage, compression)
    with BagReader(path) as bag:
        assert bag.topics["/camera/image_raw"].num_messages == 5
        assert bag.topics["/tf"].num_messages == 10
        frames = list(bag.frames("/camera/image_raw", "/camera/camera_info", "/camera/depth"))
        assert [frame.time_ns for frame in frames] == [1_700_000_000_123_456_789 + index * STEP_NS for index in range(5)]
        for index, frame in enumerate(frames):
            np.testing.assert_array_equal(frame.image, picture(index))
            assert_close(frame.depth_m, np.full((24, 32), 1 + index / 1000, np.float32))
            assert frame.camera == CAMERA
            assert frame.frame_id == "camera_optical"
        compressed = list(bag.frames("/camera/image_raw/compressed"))
        np.testing.assert_array_equal(compressed[3].image, picture(3))
        assert compressed[3].camera is None
        assert [item.message.data for item in bag.messages(["/notes"])] == [f"note {index}" for index in range(5)]


@pytest.mark.parametrize("topic", ["/pose", "/odometry", "/tf"])
def test_poses(tmp_path, topic):
    with BagReader(write_bag(tmp_path / "bag")) as bag:
        track = bag.poses(topic, child_frame_id="camera_optical" if topic == "/tf" else "")
        assert_close(track.parent_from_child, np.stack([camera_pose(index) for index in range(5)]))
        assert track.frame_id == ("odom" if topic == "/odometry" else "map")
        assert_close(track.nearest(int(track.times_ns[2]) + 1000, 2000), camera_pose(2))
        assert track.nearest(int(track.times_ns[2]) + 5000, 2000) is None


def test_transforms_need_one_pair_of_frames(tmp_path):
    with BagReader(write_bag(tmp_path / "bag")) as bag, pytest.raises(InputError, match="map ← camera_optical, map ← table"):
        bag.poses("/tf")


def test_pose_without_rotation_is_refused(tmp_path):
    message = bag_messages.pose_stamped(5, np.eye(4), "map")
    zero = dataclasses.replace(message.pose.orientation, w=0.0)
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_message("/pose", dataclasses.replace(message, pose=dataclasses.replace(message.pose, orientation=zero)), 5)
    with BagReader(tmp_path / "bag") as bag, pytest.raises(InputError, match="quaternion"):
        bag.poses("/pose")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_raw_bytes_are_copied_unchanged(tmp_path, storage):
    """What the recorder does: bytes in, bytes out, also for a type that nobody here knows."""
    source = write_bag(tmp_path / "source")
    unknown = ("/detections", "vision_msgs/msg/Detection3DArray", b"\x00\x01\x00\x00\x2a\x00\x00\x00", 1_700_000_000_000_000_000)
    with BagReader(source) as bag:
        before = list(bag.raw_messages())
        with BagWriter(tmp_path / "copy", storage) as writer:
            writer.write_raw(*unknown)
            for raw in before:
                writer.write_raw(raw.topic, raw.type_name, raw.data, raw.time_ns)
    with BagReader(tmp_path / "copy") as bag:
        after = list(bag.raw_messages())
        assert (after[0].topic, after[0].type_name, after[0].data, after[0].time_ns) == unknown
        key = lambda raw: (raw.time_ns, raw.topic, bytes(raw.data))  # noqa: E731
        assert sorted(map(key, after[1:])) == sorted(map(key, before))
        with pytest.raises(InputError, match="Detection3DArray of topic /detections is unknown"):
            list(bag.messages(["/detections"]))


def test_type_with_its_definition_is_decoded(tmp_path):
    definition = "float64 volts\nstring cell\n"
    with BagWriter(tmp_path / "bag") as writer:
        writer.add_topic("/battery", "my_robot/msg/Battery", definition)
        message = bag_messages.typestore().types["my_robot/msg/Battery"](volts=12.5, cell="left")
        writer.write_message("/battery", message, 7)
    del bag_messages.typestore().types["my_robot/msg/Battery"]
    del bag_messages.typestore().fielddefs["my_robot/msg/Battery"]
    bag_messages.typestore.cache_clear()
    with BagReader(tmp_path / "bag") as bag:
        [item] = bag.messages()
    assert (item.message.volts, item.message.cell) == (12.5, "left")


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
def test_bare_file_and_missing_metadata(tmp_path, storage, compression):
    """A recorder that was killed leaves no metadata.yaml."""
    path = write_bag(tmp_path / "bag", storage, compression)
    (path / "metadata.yaml").unlink()
    [file] = path.iterdir()
    for source in (path, file):
        with BagReader(source) as bag:
            assert len(list(bag.frames("/camera/image_raw", "/camera/camera_info"))) == 5


def test_truncated_mcap_is_read_as_far_as_it_goes(tmp_path, caplog):
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(30):
            writer.write_image("/image", index, np.full((200, 300, 3), index, np.uint8))
    file = tmp_path / "bag" / "bag.mcap"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    for source in (tmp_path / "bag", file):
        with BagReader(source) as bag:
            images = [frame.image[0, 0, 0] for frame in bag.frames("/image")]
        assert 8 <= len(images) <= 15
        assert images == list(range(len(images)))
    assert "ends too early" in caplog.text


def cut(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_truncated_bags_give_one_clear_error(tmp_path, storage, share):
    path = write_bag(tmp_path / "bag", storage)
    [file] = [file for file in path.iterdir() if file.suffix != ".yaml"]
    cut(file, share)
    with pytest.raises(InputError, match="bag"):
        BagReader(path)


@pytest.mark.parametrize("name", ["broken.mcap", "broken.db3", "notes.txt", "old.bag"])
def test_files_that_are_no_bags(tmp_path, name):
    (tmp_path / name).write_text("this is not a bag, but long enough to be looked at " * 10)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        BagReader(tmp_path / name)


def test_folders_that_are_no_bags(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        BagReader(tmp_path / "none")
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(InputError, match=r"not a rosbag2.*readme\.md"):
        BagReader(tmp_path)
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: [1, 2")
    with pytest.raises(InputError, match="cannot be read"):
        BagReader(tmp_path)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_empty_bag(tmp_path, storage):
    with BagWriter(tmp_path / "bag", storage) as writer:
        writer.add_topic("/image", bag_messages.IMAGE)
    with pytest.raises(InputError, match=r"holds no messages \(topics: /image\)"):
        BagReader(tmp_path / "bag")


def test_missing_topic_lists_what_there_is(tmp_path):
    with BagReader(write_bag(tmp_path / "bag")) as bag:
        with pytest.raises(InputError, match=r"no topic '/color'.*\n(.*\n)*.*/camera/image_raw \[sensor_msgs/msg/Image\] 5 messages"):
            list(bag.frames("/color"))
        with pytest.raises(InputError, match=r"/pose is of type geometry_msgs/msg/PoseStamped: must be sensor_msgs/msg/Image"):
            list(bag.frames("/pose"))
        with pytest.raises(InputError, match="no topic '/nothing'"):
            list(bag.raw_messages(["/nothing"]))


def test_bad_image_and_bad_camera_info_name_topic_and_stamp(tmp_path):
    image = bag_messages.image(9, picture(0), "rgb8")
    info = bag_messages.camera_info(9, CAMERA)
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_message("/image", dataclasses.replace(image, step=5), 9)
        writer.write_message("/info", dataclasses.replace(info, k=np.zeros(9)), 9)
        writer.write_image("/good", 9, picture(1)[:12])
        writer.write_camera_info("/camera_info", 9, CAMERA)
    with BagReader(tmp_path / "bag") as bag:
        with pytest.raises(InputError, match=r"topic /image, stamp 9 ns: image step 5"):
            list(bag.frames("/image"))
        with pytest.raises(InputError, match=r"topic /info, stamp 9 ns: camera focal length"):
            list(bag.frames("/good", "/info"))
        with pytest.raises(InputError, match="sizes must be equal"):
            list(bag.frames("/good", "/camera_info"))


def test_depth_that_is_too_late_is_left_out(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for index in range(4):
            writer.write_image("/image", index * STEP_NS, picture(index))
        for stamp, value in ((1 * STEP_NS - 3_000_000, 1000), (1 * STEP_NS + 9_000_000, 2000), (3 * STEP_NS + 30_000_000, 3000)):
            writer.write_image("/depth", stamp, np.full((24, 32), value, np.uint16), "16UC1")
    with BagReader(tmp_path / "bag") as bag:
        depths = [frame.depth_m for frame in bag.frames("/image", depth_topic="/depth")]
    assert [None if depth is None else round(float(depth[0, 0]), 3) for depth in depths] == [None, 1.0, None, None]


def test_camera_info_topic_is_found_by_name(tmp_path):
    with BagReader(write_bag(tmp_path / "bag")) as bag:
        assert bag.camera_info_topic_of("/camera/image_raw") == "/camera/camera_info"
        assert bag.camera_info_topic_of("/camera/image_raw/compressed") == "/camera/camera_info"
        assert bag.find_topics(bag_messages.STRING) == ["/notes"]


def test_writer_protects_what_is_there(tmp_path):
    path = write_bag(tmp_path / "bag", num=1)
    with pytest.raises(InputError, match="exists"):
        BagWriter(path)
    with BagWriter(path, overwrite=True) as writer:
        writer.write_string("/notes", 1, "new")
    with BagReader(path) as bag:
        assert list(bag.topics) == ["/notes"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not a bag"):
        BagWriter(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()
    with pytest.raises(InputError, match="storage"):
        BagWriter(tmp_path / "new", storage="rosbag1")


def test_bag_survives_an_exception_of_its_writer(tmp_path):
    def fail(writer):
        writer.write_string("/notes", 1, "before")
        raise RuntimeError("robot fell over")

    with pytest.raises(RuntimeError, match="robot fell over"), BagWriter(tmp_path / "bag") as writer:
        fail(writer)
    with BagReader(tmp_path / "bag") as bag:
        assert [item.message.data for item in bag.messages()] == ["before"]


def test_array_that_does_not_fit_its_encoding(tmp_path):
    with BagWriter(tmp_path / "bag") as writer, pytest.raises(InputError):
        writer.write_image("/image", 1, np.zeros((4, 5), np.uint8), "rgb8")
