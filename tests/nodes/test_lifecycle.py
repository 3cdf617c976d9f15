"""Transitions of the camera nodes, by direct calls and through the services."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tests.nodes.fakes import QuickFeaturesNode
from tests.support.ros import FakeCamera, RosHarness

from perception.core.errors import WeightsError

pytestmark = pytest.mark.ros
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def worker_threads(node: Any) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"{node.get_name()} worker"]


def test_whole_life_through_the_services(ros: RosHarness) -> None:
    node = ros.add(QuickFeaturesNode())
    camera = FakeCamera(ros)
    status = ros.collect(String, "/features/status")
    assert node.quick is None, "weights before configure"
    assert ros.transition("features", Transition.TRANSITION_CONFIGURE)
    assert node.quick is not None
    assert camera.images.get_subscription_count() == 0, "an inactive node subscribes"
    assert not worker_threads(node)
    assert ros.transition("features", Transition.TRANSITION_ACTIVATE)
    camera.wait_for_node()
    stamp = camera.send()
    assert ros.wait(lambda: status)
    assert f'"stamp_ns": {stamp}' in status[0].data
    assert ros.transition("features", Transition.TRANSITION_DEACTIVATE)
    assert ros.wait(lambda: camera.images.get_subscription_count() == 0)
    assert not worker_threads(node)
    assert ros.transition("features", Transition.TRANSITION_CLEANUP)
    assert node.quick is None
    assert node.num_freed == 1
    assert not [topic for topic, _ in node.get_publisher_names_and_types_by_node("features", "/") if topic.startswith("/features/feat")]
    assert ros.transition("features", Transition.TRANSITION_CONFIGURE)
    assert ros.transition("features", Transition.TRANSITION_ACTIVATE)
    camera.wait_for_node()
    camera.send()
    assert ros.wait(lambda: len(status) == 2)


def test_a_transition_that_is_not_possible_is_refused(ros: RosHarness) -> None:
    ros.add(QuickFeaturesNode())
    assert not ros.transition("features", Transition.TRANSITION_ACTIVATE)


def test_failure_to_configure_says_why_and_can_be_mended(ros: RosHarness) -> None:
    log = ros.collect(Log, "/rosout")
    node = ros.add(QuickFeaturesNode())
    assert ros.wait(lambda: ros.node.count_publishers("/rosout"))
    node.build_error = WeightsError("weights/nano.safetensors: 12 of 40 bytes, truncated")
    assert node.trigger_configure() == FAILURE
    assert node.num_freed == 0
    assert ros.wait(lambda: [line for line in log if line.msg == "cannot configure: weights/nano.safetensors: 12 of 40 bytes, truncated"])
    assert len([line for line in log if line.level >= 40]) == 1, "one line, not several"
    node.build_error = RuntimeError("anything else")
    assert node.trigger_configure() == FAILURE
    node.build_error = None
    assert node.trigger_configure() == SUCCESS


def test_unknown_and_wrong_parameters_refuse_to_configure(ros: RosHarness) -> None:
    unknown = ros.add(QuickFeaturesNode("a", parameter_overrides=[Parameter("publish_stride", value=2)]))
    assert unknown.trigger_configure() == FAILURE
    assert "unknown parameter(s) publish_stride of node a; known: max_rate_hz" in unknown.diagnostics.last_error
    wrong = ros.add(QuickFeaturesNode("b", parameter_overrides=[Parameter("publish_stride_cells", value=0)]))
    assert wrong.trigger_configure() == FAILURE
    assert wrong.diagnostics.last_error == "b.publish_stride_cells = 0: must lie in [1, 64] cells"


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_shutdown_from_every_state(ros: RosHarness, steps: int) -> None:
    node = ros.add(QuickFeaturesNode())
    for trigger in (node.trigger_configure, node.trigger_activate)[:steps]:
        assert trigger() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert node.quick is None
    assert not worker_threads(node)


def test_autostart(ros: RosHarness) -> None:
    camera = FakeCamera(ros)
    ros.add(QuickFeaturesNode(parameter_overrides=[Parameter("autostart", value=True)]))
    camera.wait_for_node()


def test_parameters_while_active(ros: RosHarness) -> None:
    node = ros.add(QuickFeaturesNode())
    camera, maps = FakeCamera(ros), ros.collect(Image, "/features/features")
    node.trigger_configure()
    node.trigger_activate()
    camera.wait_for_node()
    camera.send()
    assert ros.wait(lambda: maps)
    assert (maps[-1].height, maps[-1].width, maps[-1].encoding) == (3, 4, "32FC8")

    def set_parameter(name: str, value: object) -> Any:
        request = SetParametersAtomically.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return ros.call(SetParametersAtomically, "/features/set_parameters_atomically", request).result

    assert set_parameter("publish_stride_cells", 1).successful
    camera.send()
    assert ros.wait(lambda: len(maps) == 2)
    assert (maps[-1].height, maps[-1].width) == (6, 8)
    refused = set_parameter("publish_stride_cells", 99)
    assert refused.reason == "features.publish_stride_cells = 99: must lie in [1, 64] cells"
    held = set_parameter("features.extractor", "other")
    assert held.reason == "features.extractor: takes effect when the node is configured; deactivate and clean it up first"
