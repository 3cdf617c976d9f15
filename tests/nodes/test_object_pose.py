"""The object_pose node: what it publishes, its services, and once the real pipeline from onboarding to poses."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseArray, PoseStamped, PoseWithCovarianceStamped
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from tests.nodes.fakes import QuickFeatures, QuickPose, quick_estimate
from tests.support import textured_plane
from tests.support.closeness import assert_close
from tests.support.ros import FakeCamera, RosHarness

from perception.core.types import Frame
from perception.geometry.so3 import rotation_angle
from perception.io.ros_images import image_to_array
from perception.nodes import object_onboarding
from perception.nodes.messages import matrix_from_pose
from perception.nodes.object_pose_node import ObjectPoseNode
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.object_database import ObjectDatabase, adapter_path
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig

pytestmark = pytest.mark.ros


class QuickPoseNode(ObjectPoseNode):
    """The node round a QuickPose."""

    names: tuple[str, ...] = ("cup", "hidden_can")

    def make_features(self, config: Any) -> Any:
        return QuickFeatures()

    def free_features(self, config: Any) -> None:
        pass

    def make_pipeline(self, config: Any, features: Any) -> Any:
        return QuickPose(self.names)


def active(ros: RosHarness, node: ObjectPoseNode) -> ObjectPoseNode:
    ros.add(node)
    node.trigger_configure()
    node.trigger_activate()
    return node


def test_what_one_frame_publishes(ros: RosHarness) -> None:
    received = {
        topic: ros.collect(kind, f"/object_pose/{topic}")
        for kind, topic in (
            (PoseStamped, "pose"),
            (PoseArray, "poses"),
            (PoseWithCovarianceStamped, "objects/cup/pose"),
            (Image, "overlay"),
            (String, "status"),
        )
    }
    node, camera = active(ros, QuickPoseNode()), FakeCamera(ros)
    camera.wait_for_node()
    assert ros.wait(lambda: all(ros.node.count_publishers(f"/object_pose/{topic}") for topic in received))
    assert ros.wait(lambda: node._overlay.get_subscription_count())
    stamp = camera.send()
    assert ros.wait(lambda: all(received.values())), {topic: len(messages) for topic, messages in received.items()}
    expected = quick_estimate("cup", 0.9)
    for topic in ("pose", "poses", "objects/cup/pose", "overlay"):
        header = received[topic][0].header
        assert (header.stamp.sec * 10**9 + header.stamp.nanosec, header.frame_id) == (stamp, "camera_optical")
    assert_close(matrix_from_pose(received["pose"][0].pose), expected.camera_from_object)
    assert len(received["poses"][0].poses) == 1
    assert_close(np.array(received["objects/cup/pose"][0].pose.covariance), expected.covariance.ravel())
    assert image_to_array(received["overlay"][0]).shape == (48, 64, 3)
    status = json.loads(received["status"][0].data)
    assert status["stamp_ns"] == stamp
    assert 0 <= status["step_s"] <= status["latency_s"] < 10
    (estimate,) = status["estimates"]
    assert (estimate["object"], estimate["num_matches"], estimate["num_inliers"], estimate["score"]) == ("cup", 20, 6, 0.9)
    assert_close(np.array(estimate["camera_from_object"]).reshape(4, 4), expected.camera_from_object)
    assert status["misses"][0]["object"] == "hidden_can"
    assert status["misses"][0]["reason"] == "too few matches (3 of 6 needed)"
    assert node.describe()["inliers cup"] == "6"


def test_without_an_estimate_there_is_no_pose_but_a_reason(ros: RosHarness) -> None:
    node = QuickPoseNode()
    node.names = ("hidden_can",)
    camera, poses, pose, status = (
        FakeCamera(ros),
        ros.collect(PoseArray, "/object_pose/poses"),
        ros.collect(PoseStamped, "/object_pose/pose"),
        ros.collect(String, "/object_pose/status"),
    )
    active(ros, node)
    camera.wait_for_node()
    camera.send()
    assert ros.wait(lambda: poses and status)
    assert poses[0].poses == []
    assert pose == []


class Kept(list):
    """Stands for a publisher of a type that is not on PyPI."""

    publish = list.append


def test_tf_where_tf2_msgs_is_installed(ros: RosHarness) -> None:
    node, camera, status = active(ros, QuickPoseNode()), FakeCamera(ros), ros.collect(String, "/object_pose/status")
    frames = Kept()
    node._tf_msgs, node._tf = SimpleNamespace(TFMessage=SimpleNamespace), frames
    camera.wait_for_node()
    camera.send()
    assert ros.wait(lambda: status)
    ((transform,),) = (message.transforms for message in frames)
    assert (transform.header.frame_id, transform.child_frame_id) == ("camera_optical", "cup")
    assert transform.transform.translation.z == 1.0
    assert node.set_parameters([Parameter("publish_tf", value=False)])[0].successful
    camera.send()
    assert ros.wait(lambda: len(status) == 2)
    assert len(frames) == 1


def set_onboard(node: ObjectPoseNode, **values: str) -> None:
    for name, value in values.items():
        assert node.set_parameters([Parameter(f"onboard.{name}", value=value)])[0].successful


def test_images_flow_while_an_object_is_onboarded(ros: RosHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    node, camera, status = active(ros, QuickPoseNode()), FakeCamera(ros), ros.collect(String, "/object_pose/status")
    camera.wait_for_node()
    go_on = threading.Event()

    class Views(list):
        kind = "fake"

    def build(name: str, *_: Any) -> Any:
        assert go_on.wait(20.0)
        return SimpleNamespace(name=name, points=range(120), num_views=2)

    monkeypatch.setattr(object_onboarding, "open_references", lambda *_: Views([1, 2]))
    monkeypatch.setattr(object_onboarding, "build_database", build)
    set_onboard(node, name="box", source="somewhere")
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(ros.call(Trigger, "/object_pose/onboard")))
    caller.start()
    for num in (1, 2, 3):
        camera.send()
        assert ros.wait(lambda expected=num: len(status) >= expected)
    assert not answers
    go_on.set()
    caller.join(10.0)
    assert answers[0].success
    assert "object 'box': 120 points from 2 views in" in answers[0].message
    new = ros.collect(PoseWithCovarianceStamped, "/object_pose/objects/box/pose")
    assert ros.wait(lambda: ros.node.count_publishers("/object_pose/objects/box/pose"))

    def received() -> bool:
        camera.send()
        return bool(new)

    assert ros.wait(received), "the topic of an object that came while the node was active"
    answer = ros.call(Trigger, "/object_pose/remove")
    assert (answer.success, answer.message) == (True, "object 'box' removed; known: cup, hidden_can")
    assert ros.wait(lambda: not ros.node.count_publishers("/object_pose/objects/box/pose"))
    answer = ros.call(Trigger, "/object_pose/remove")
    assert (answer.success, answer.message) == (False, "remove: object 'box' is not known; known: cup, hidden_can")
    assert ros.call(Trigger, "/object_pose/reset").success
    assert node.pipeline.num_resets == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "parameter(s) onboard.name, onboard.source are empty"),
        ({"name": "a/b", "source": "x"}, "object name 'a/b': must start with a letter"),
        ({"name": "box", "source": "/nowhere/mesh.ply"}, "/nowhere/mesh.ply"),
    ],
)
def test_onboarding_that_cannot_be_says_why(ros: RosHarness, values: dict[str, str], text: str) -> None:
    node = active(ros, QuickPoseNode())
    set_onboard(node, **values)
    answer = ros.call(Trigger, "/object_pose/onboard")
    assert not answer.success
    assert text in answer.message
    assert node.pipeline.object_names == ("cup", "hidden_can")


def test_cleanup_breaks_off_an_onboarding(ros: RosHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    node = active(ros, QuickPoseNode())
    started = threading.Event()

    class Views(list):
        kind = "fake"

    def build(_name: str, _views: Any, _features: Any, _config: Any, progress: Any, _source: str) -> Any:
        started.set()
        while True:
            progress(1, 2)

    monkeypatch.setattr(object_onboarding, "open_references", lambda *_: Views([1, 2]))
    monkeypatch.setattr(object_onboarding, "build_database", build)
    set_onboard(node, name="box", source="somewhere")
    client = ros.node.create_client(Trigger, "/object_pose/onboard")
    assert client.wait_for_service(10.0)
    client.call_async(Trigger.Request())
    assert started.wait(10.0)
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node.pipeline is None


def test_onboarding_can_adapt_the_features_to_the_object(ros: RosHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Views(list):
        kind = "fake"

    poses = [textured_plane.view_pose(azimuth, 5, 0.6, azimuth / 2) for azimuth in (-30, -15, 0, 15, 30)]
    views = Views(textured_plane.reference_views(textured_plane.random_texture(3), poses))
    monkeypatch.setattr(object_onboarding, "open_references", lambda *_: views)
    settings = {
        "features.extractor": "tiny_nano",
        "database_dir": str(tmp_path),
        "onboard.adapt": 2,
        "onboard.adaptation.num_points": 300,
        "onboard.adaptation.min_gain": 0.0,
        "onboard.adaptation.learning_rate": 0.003,
        "onboard.database.max_descriptors": 2000,
        "onboard.database.num_words": 16,
    }
    node = active(ros, ObjectPoseNode(parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()]))
    set_onboard(node, name="plane", source="somewhere")
    answer = ros.call(Trigger, "/object_pose/onboard")
    assert answer.success, answer.message
    database = ObjectDatabase.load(tmp_path / "plane.safetensors")
    assert database.provenance["adaptation"]["iterations"] == 2
    assert database.provenance["adaptation"]["summary"] in answer.message
    assert adapter_path(tmp_path / "plane.safetensors").is_file() == database.provenance["adaptation"]["accepted"]
    assert node.pipeline is not None
    assert node.pipeline.object_names == ("plane",)
    assert not node.set_parameters([Parameter("onboard.adapt", value=-1)])[0].successful


def test_a_missing_database_refuses_to_configure(ros: RosHarness, tmp_path: Path) -> None:
    node = ros.add(ObjectPoseNode(parameter_overrides=[Parameter("databases", value=[str(tmp_path / "cup.safetensors")])]))
    node.trigger_configure()
    assert "cup.safetensors" in node.diagnostics.last_error
    assert node.pipeline is None
    node.set_parameters([Parameter("databases", Parameter.Type.STRING_ARRAY, [])])
    node.trigger_configure()
    assert node.pipeline is not None


def test_real_pipeline_from_database_to_pose(ros: RosHarness, tmp_path: Path) -> None:
    texture = textured_plane.random_texture(3)
    views = textured_plane.reference_views(texture, [textured_plane.view_pose(azimuth, 0, 0.8) for azimuth in (-20, 20)])
    config = OneShotPoseConfig()
    database = build_database("plane", views, DenseFeatures(config.features), OnboardingConfig(max_descriptors=4000, num_words=32))
    path = database.save(tmp_path / "plane.safetensors")
    received, status = ros.collect(PoseWithCovarianceStamped, "/object_pose/objects/plane/pose"), ros.collect(String, "/object_pose/status")
    active(ros, ObjectPoseNode(parameter_overrides=[Parameter("databases", value=[str(path)])]))
    camera = FakeCamera(ros, camera=textured_plane.CAMERA)
    truth = textured_plane.view_pose(8, -5, 0.75, 10)
    camera.pixels = textured_plane.render_plane(texture, truth).image
    camera.wait_for_node()
    stamp = camera.send()
    assert ros.wait(lambda: received, 60.0), status and status[0].data
    found = matrix_from_pose(received[0].pose.pose)
    pipeline = OneShotPose(replace(config, databases=(str(path),)), DenseFeatures(config.features))
    (expected,) = pipeline.step(Frame(camera.pixels, stamp, camera.camera, "camera_optical", "/image")).estimates
    assert_close(found, expected.camera_from_object, rtol=1e-6, atol=1e-6)  # the same step in the node and out of it
    assert np.degrees(float(rotation_angle(found[:3, :3] @ truth[:3, :3].T))) < 5.0
    assert np.linalg.norm(found[:3, 3] - truth[:3, 3]) < 0.05
