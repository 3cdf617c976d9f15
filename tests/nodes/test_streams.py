"""Quality of service, latched metadata, simulated time, two cameras with one model, and more frames than the node can work on."""

from __future__ import annotations

import json
import resource
import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import Trigger
from tests.nodes.fakes import QuickFeaturesNode
from tests.support.ros import FakeCamera, RosHarness

from perception.core.types import Camera
from perception.io.ros_images import image_to_array
from perception.nodes.features_node import FeaturesNode
from perception.nodes.messages import points_from_message
from perception.nodes.up import make_nodes

pytestmark = pytest.mark.ros
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def active(ros: RosHarness, node: FeaturesNode) -> FeaturesNode:
    ros.add(node)
    node.trigger_configure()
    node.trigger_activate()
    return node


@pytest.mark.parametrize(("reliability", "matches"), [("best_effort", True), ("reliable", False)])
def test_reliability_is_a_parameter(ros: RosHarness, reliability: str, matches: bool) -> None:
    camera, status = FakeCamera(ros, qos=BEST_EFFORT), ros.collect(String, "/features/status")
    active(ros, QuickFeaturesNode(parameter_overrides=[Parameter("image.reliability", value=reliability)]))
    assert ros.wait(lambda: ros.node.count_subscribers("/image"))
    (subscriber,) = ros.node.get_subscriptions_info_by_topic("/image")
    assert subscriber.qos_profile.reliability == (ReliabilityPolicy.BEST_EFFORT if matches else ReliabilityPolicy.RELIABLE)

    def received() -> bool:
        camera.send()
        time.sleep(0.02)
        return bool(status)

    assert ros.wait(received, timeout_s=5.0 if matches else 0.5) == matches


def test_metadata_is_latched_and_the_picture_only_made_on_demand(ros: RosHarness) -> None:
    node, camera, status = active(ros, QuickFeaturesNode()), FakeCamera(ros), ros.collect(String, "/features/status")
    camera.wait_for_node()
    camera.send()
    assert ros.wait(lambda: status)
    assert node._pca is None, "nobody looks at the picture"
    metadata = ros.collect(String, "/features/metadata", LATCHED)
    assert ros.wait(lambda: metadata)
    assert json.loads(metadata[0].data) == {
        "extractor": "quick",
        "dim": 8,
        "rows": 3,
        "cols": 4,
        "grid": {"offset_px": [3.5, 3.5], "stride_px": [16.0, 16.0]},
        "image_size": {"width": 64, "height": 48},
    }
    pictures = ros.collect(Image, "/features/visualization")
    assert ros.wait(lambda: node._pictures.get_subscription_count())
    stamp = camera.send()
    assert ros.wait(lambda: pictures)
    assert image_to_array(pictures[0]).shape == (48, 64, 3)
    assert pictures[0].header.frame_id == "camera_optical"
    assert pictures[0].header.stamp == Time(sec=stamp // 10**9, nanosec=stamp % 10**9)


def test_simulated_time(ros: RosHarness) -> None:
    clock = ros.node.create_publisher(Clock, "/clock", 10)
    camera, status = FakeCamera(ros), ros.collect(String, "/features/status")
    node = active(ros, QuickFeaturesNode(parameter_overrides=[Parameter("use_sim_time", value=True)]))
    assert node.diagnostics.last_error == ""
    camera.wait_for_node()
    assert ros.wait(clock.get_subscription_count)
    stamp = camera.send()  # before any clock has come
    assert ros.wait(lambda: len(status) == 1)
    clock.publish(Clock(clock=Time(sec=stamp // 10**9)))
    assert ros.wait(lambda: node.get_clock().now().nanoseconds == stamp // 10**9 * 10**9)
    stamp = camera.send()
    assert ros.wait(lambda: len(status) == 2)
    assert json.loads(status[1].data)["stamp_ns"] == stamp


def test_two_cameras_share_one_model(ros: RosHarness) -> None:
    size = Camera(96, 64, 80.0, 80.0, 47.5, 31.5)
    left, right = FakeCamera(ros, "/left", camera=size), FakeCamera(ros, "/right", camera=size)
    right.time_ns += 7
    status = {name: ros.collect(String, f"/{name}/features/status") for name in ("left", "right")}
    nodes = [ros.add(node) for node in make_nodes([FeaturesNode], ["/left", "/right"], [])]  # they start themselves
    left.wait_for_node()
    right.wait_for_node()
    assert nodes[0].features is nodes[1].features is not None
    stamps = {"left": left.send(), "right": right.send()}
    assert ros.wait(lambda: all(status.values()))
    for name, messages in status.items():
        assert [json.loads(message.data)["stamp_ns"] for message in messages] == [stamps[name]]
    features = nodes[0].features
    nodes[0].trigger_deactivate()
    nodes[0].trigger_cleanup()
    assert nodes[1].features is features, "the other camera keeps the model"
    right.send()
    assert ros.wait(lambda: len(status["right"]) == 2)


def test_tracks_and_reset(ros: RosHarness) -> None:
    camera = FakeCamera(ros, camera=Camera(160, 120, 100.0, 100.0, 79.5, 59.5))
    tracks = ros.collect(PointCloud2, "/features/tracks")
    node = FeaturesNode(parameter_overrides=[Parameter("tracks.enabled", value=True), Parameter("tracks.grid_px", value=40)])
    active(ros, node)
    camera.wait_for_node()
    camera.send()
    assert ros.wait(lambda: tracks)
    first = points_from_message(tracks[0])
    assert first.dtype.names == ("x", "y", "z", "id", "visible", "score")
    assert len(first) == 4 * 3
    assert np.hypot(first["x"][0] - 20.0, first["y"][0] - 20.0) < 35, "the grid begins at (20, 20) and the tracker looks within 35 px"
    assert ros.call(Trigger, "/features/reset").success
    camera.send()
    assert ros.wait(lambda: len(tracks) == 2)
    assert len(points_from_message(tracks[1])) == 4 * 3


def test_overload_drops_frames_and_keeps_memory_and_latency_flat(ros: RosHarness) -> None:
    camera, status = FakeCamera(ros, camera=Camera(640, 480, 500.0, 500.0, 319.5, 239.5)), ros.collect(String, "/features/status")
    node = QuickFeaturesNode()
    node.pause_s = 0.1
    active(ros, node)
    camera.wait_for_node()
    frames = [camera.image() for _ in range(300)]
    memory, ages = [], []
    number = {message.header.stamp.sec * 10**9 + message.header.stamp.nanosec: index for index, message in enumerate(frames)}
    for index, message in enumerate(frames):  # 100 Hz into a node that does 10
        camera.images.publish(message)
        time.sleep(0.01)
        while len(ages) < len(status):
            ages.append(index - number[json.loads(status[len(ages)].data)["stamp_ns"]])
        if index in (100, 299):
            memory.append(resident_bytes())
    assert ros.wait(lambda: json.loads(status[-1].data)["stamp_ns"] == camera.time_ns), "the last frame is worked on"
    counts = node.diagnostics.statistics.counts()
    assert counts["dropped"] > counts["processed"] >= 10
    # In frames sent since, not in seconds: a busy machine holds camera and node up alike. A queue would make it grow to more than 200.
    assert sorted(ages)[len(ages) // 2] <= 40, "at most the step in work and the own step"
    assert ages[-1] <= 100
    assert memory[1] - memory[0] < 20e6, "20 MB are twenty frames; 200 were sent"


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
