import pickle

import numpy as np
import pytest
from tests.support.miniatures.rosbags import DELAY_NS, DEPTH, IMAGE, PERIOD_NS, POSE, WORLD_FRAME, stamp_ns, write_bag
from tests.support.miniatures.scene import miniature_scene, reprojection_error_px

from perception.core.errors import ConfigError, InputError
from perception.io.bags import BagReader, BagWriter
from perception_training.data.readers import open_dataset

ALL = (0, 1, 2, 3)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bag_gives_frames_with_camera_depth_and_poses(tmp_path, storage, compressed):
    scene = miniature_scene()
    write_bag(tmp_path / "walk", scene, storage=storage, compressed=compressed)
    dataset = open_dataset("rosbags", tmp_path)
    topic = IMAGE + "/compressed" * compressed
    assert dataset.sequence_names == (f"walk:{topic}",)
    sequence = dataset[0]
    assert sequence.frame_names == tuple(str(stamp_ns(frame)) for frame in ALL)
    sample = sequence.load((3, 0, 1, 2))
    for index, frame in enumerate((3, 0, 1, 2)):
        np.testing.assert_array_equal(sample.images[index], scene.images[frame])
        truth = np.zeros_like(scene.depth_m[frame]) if frame == 1 else scene.depth_m[frame]
        np.testing.assert_allclose(sample.depth_m[index][2:], truth[2:], atol=6e-4)
        assert not sample.depth_m[index][:2].any()
    np.testing.assert_allclose(sample.times_s, np.array((3, 0, 1, 2)) * PERIOD_NS * 1e-9)
    assert sample.cameras[0] == scene.cameras[3]
    chosen = sequence.load((0, 2, 3))
    assert reprojection_error_px(chosen, scene, (0, 2, 3)) < 0.2  # depth is in whole millimetres


@pytest.mark.parametrize("poses", ["odometry", "pose"])
def test_poses_of_a_topic_stand_for_those_of_tf(tmp_path, poses):
    scene = miniature_scene()
    write_bag(tmp_path / "walk", scene, poses=poses, with_depth=False)
    assert open_dataset("rosbags", tmp_path)[0].world_from_camera is None
    sample = open_dataset("rosbags", tmp_path, {"pose_topic": POSE})[0].load(ALL)
    assert sample.depth_m is None
    np.testing.assert_allclose(sample.world_from_camera, scene.world_from_camera, atol=1e-6)
    assert reprojection_error_px(sample, scene, ALL) < 0.01


def test_a_camera_that_nothing_moves_has_no_pose(tmp_path):
    write_bag(tmp_path / "walk", miniature_scene(), poses="none")
    assert open_dataset("rosbags", tmp_path)[0].world_from_camera is None
    with pytest.raises(InputError, match=r"walk has no topic '/truth'"):
        open_dataset("rosbags", tmp_path, {"pose_topic": POSE})[0]


def test_a_frame_far_from_any_stamp_has_no_pose(tmp_path):
    scene = miniature_scene()
    write_bag(tmp_path / "walk", scene, frames_without_pose=(2,))
    assert open_dataset("rosbags", tmp_path)[0].load(ALL).has_pose.tolist() == [True, True, False, True]
    assert open_dataset("rosbags", tmp_path, {"max_pose_delay_s": 0.2})[0].load(ALL).has_pose.all()


def test_the_world_can_be_a_frame_of_the_chain(tmp_path):
    scene = miniature_scene()
    write_bag(tmp_path / "walk", scene)
    sample = open_dataset("rosbags", tmp_path, {"world_frame": WORLD_FRAME})[0].load(ALL)
    np.testing.assert_allclose(sample.world_from_camera, scene.world_from_camera, atol=1e-6)
    with pytest.raises(InputError, match=r"walk: transforms lead from 'front_optical' to base_link → map: must lead to 'odom'"):
        open_dataset("rosbags", tmp_path, {"world_frame": "odom"})[0]


def test_topics_can_be_named(tmp_path):
    scene = miniature_scene()
    with BagWriter(write_bag(tmp_path / "walk", scene).parent / "two") as bag:
        for frame in ALL:
            bag.write_image("/left", stamp_ns(frame), scene.images[frame])
            bag.write_image("/right", stamp_ns(frame), scene.images[frame][:, ::-1].copy())
    assert open_dataset("rosbags", tmp_path).sequence_names == ("two:/left", "two:/right", f"walk:{IMAGE}")
    only = open_dataset("rosbags", tmp_path, {"image_topics": ["/right"]})
    assert only.sequence_names == ("two:/right",)
    sample = only[0].load((1,))
    np.testing.assert_array_equal(sample.images[0], scene.images[1][:, ::-1])
    assert sample.cameras is None
    with pytest.raises(InputError, match=r"has no topic '/other'"):
        open_dataset("rosbags", tmp_path / "two", {"depth_topic": "/other"})[0]


def test_a_single_file_is_a_bag(tmp_path):
    scene = miniature_scene()
    [path] = write_bag(tmp_path / "walk", scene).glob("*.mcap")
    dataset = open_dataset("rosbags", path)
    assert dataset.sequence_names == (f"{path.name}:{IMAGE}",)
    np.testing.assert_array_equal(dataset[0].load((2,)).images[0], scene.images[2])


def test_messages_recorded_at_one_time_are_told_apart(tmp_path):
    scene = miniature_scene()
    with BagWriter(tmp_path / "burst") as bag:
        for frame in ALL:
            bag.write_image("/left", 5, scene.images[frame])
    sample = open_dataset("rosbags", tmp_path)[0].load((2, 0, 3))
    for image, frame in zip(sample.images, (2, 0, 3), strict=True):
        np.testing.assert_array_equal(image, scene.images[frame])


def test_loading_a_frame_decodes_only_its_messages(tmp_path, monkeypatch):
    write_bag(tmp_path / "walk", miniature_scene())
    sequence = open_dataset("rosbags", tmp_path)[0]
    decoded = []
    original = BagReader.decode
    monkeypatch.setattr(BagReader, "decode", lambda self, raw: (decoded.append((raw.topic, raw.time_ns)), original(self, raw))[1])
    sequence.load((2,))
    assert decoded == [(IMAGE, stamp_ns(2) + DELAY_NS), (DEPTH, stamp_ns(2) + DELAY_NS)]


def test_a_sequence_can_be_sent_to_a_worker(tmp_path):
    scene = miniature_scene()
    write_bag(tmp_path / "walk", scene)
    sequence = open_dataset("rosbags", tmp_path)[0]
    sequence.load((0,))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sequence)).load((1,)).images[0], scene.images[1])


def test_bad_bags_are_named(tmp_path):
    scene = miniature_scene()
    path = write_bag(tmp_path / "walk", scene)
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\n rubbish")
    dataset = open_dataset("rosbags", tmp_path)
    assert dataset.sequence_names == ("broken.mcap:", f"walk:{IMAGE}")  # it is reported when it is its turn
    with pytest.raises(InputError, match=r"broken\.mcap"):
        dataset[0]
    dataset[1].load((0,))
    with pytest.raises(InputError, match="holds no sequences"):
        open_dataset("rosbags", path, {"image_topics": ["/none"]})
    with pytest.raises(InputError, match=r"walk:/front/image_raw: frame 4 is not there"):
        dataset[1].load((4,))
    with pytest.raises(ConfigError, match="sequence = 'walk:/none': unknown"):
        dataset.open_sequence("walk:/none")


def test_an_image_that_its_camera_is_not_for_is_named(tmp_path):
    scene = miniature_scene()
    with BagWriter(tmp_path / "walk") as bag:
        bag.write_image("/front/image_raw", 5, scene.images[0][::2].copy())
        bag.write_camera_info("/front/camera_info", 5, scene.cameras[0])
    with pytest.raises(InputError, match=r"walk is 160x60 but its intrinsics are for 160x120"):
        open_dataset("rosbags", tmp_path)[0].load((0,))
