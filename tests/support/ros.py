"""Real ROS in tests: a domain of its own, a spinning executor, publishers and collectors."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from perception.core.types import Camera
from perception.nodes.messages import camera_info_message, header_of, image_message
from perception.nodes.processes import reserved_domain, ros_environment
from perception.nodes.spinning import spin_until_shutdown

RELIABLE = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
CAMERA = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)


class RosHarness:
    """One executor in a thread, with a test node beside the nodes under test."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.executor = MultiThreadedExecutor(num_threads=6)
        self.node = Node("test", enable_rosout=False)
        self.errors: list[BaseException] = []
        self._nodes: list[Any] = []
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            spin_until_shutdown(self.executor)
        except BaseException as error:  # an exception that left a callback: the node would have died
            self.errors.append(error)

    def add(self, node: Any) -> Any:
        """Spin a camera node until the test ends."""
        self._nodes.append(node)
        self.executor.add_node(node)
        return node

    def wait(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> bool:
        """Whether `condition` came true in time; an exception in a callback fails the test at once."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert not self.errors, self.errors
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def collect(self, kind: type, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """A list that fills with the messages of a topic."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def call(self, kind: type, service: str, request: Any = None, timeout_s: float = 20.0) -> Any:
        """The answer of a service."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(timeout_s), f"no service {service}"
        done = threading.Event()
        future = client.call_async(request or kind.Request())
        future.add_done_callback(lambda _: done.set())
        assert done.wait(timeout_s), f"{service} did not answer"
        self.node.destroy_client(client)
        return future.result()

    def transition(self, node_name: str, number: int) -> bool:
        """Ask a lifecycle node for a transition through its service."""
        request = ChangeState.Request()
        request.transition.id = number
        return bool(self.call(ChangeState, f"{node_name}/change_state", request).success)

    def close(self) -> None:
        for node in self._nodes:
            node.stop_work()
        self.executor.shutdown(timeout_sec=5.0)
        self._thread.join(5.0)
        for node in self._nodes:
            node.close()
        self.node.destroy_node()
        self._nodes.clear()
        gc.collect()  # rclpy's lifecycle nodes lie in reference cycles; until they are gone their names stay taken
        assert not self.errors, self.errors


@contextmanager
def ros_context() -> Iterator[dict[str, str]]:
    """rclpy in a free domain of this machine; gives the environment for child processes. One for each test file: it takes a second to start."""
    with reserved_domain() as domain_id:
        environment = ros_environment(domain_id)
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        rclpy.init(args=[], domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        try:
            yield environment
        finally:
            rclpy.try_shutdown()
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


class FakeCamera:
    """Publishes images with rising stamps and their CameraInfo."""

    def __init__(self, ros: RosHarness, namespace: str = "", qos: QoSProfile = RELIABLE, camera: Camera = CAMERA) -> None:
        self.camera, self.time_ns = camera, 1_000_000_000
        self.pixels = np.random.default_rng(0).integers(0, 255, (camera.height, camera.width, 3), np.uint8)
        self.images: Publisher = ros.node.create_publisher(Image, f"{namespace}/image", qos)
        self.infos: Publisher = ros.node.create_publisher(CameraInfo, f"{namespace}/camera_info", qos)
        self._ros = ros

    def wait_for_node(self) -> None:
        """Until someone subscribes."""
        assert self._ros.wait(lambda: self.images.get_subscription_count() and self.infos.get_subscription_count())

    def image(self, time_ns: int | None = None) -> Image:
        """The next image message; 100 ms after the last one."""
        self.time_ns = self.time_ns + 100_000_000 if time_ns is None else time_ns
        return image_message(self.pixels, "rgb8", header_of(self.time_ns, "camera_optical"))

    def send_info(self, camera: Camera | None = None) -> None:
        self.infos.publish(camera_info_message(camera or self.camera, header_of(self.time_ns, "camera_optical")))

    def send(self) -> int:
        """Publish calibration and image; returns the stamp."""
        message = self.image()
        self.send_info()
        self.images.publish(message)
        return self.time_ns
