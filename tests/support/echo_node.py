"""A small lifecycle node for tests of what talks to nodes: answers each image on `~/status`, and fails in the ways it is told to."""

from __future__ import annotations

import json
import os
import sys

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_msgs.msg import String


class EchoNode(LifecycleNode):
    """Parameters: `refuse_configure` · `silent_at` and `die_at`: number of the image (from 1) that is not answered, or ends the process."""

    def __init__(self) -> None:
        super().__init__("echo")
        for name, default in (("refuse_configure", False), ("silent_at", 0), ("die_at", 0)):
            self.declare_parameter(name, default)
        self.num_images = 0

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.get_parameter("refuse_configure").value:
            self.get_logger().error("told to refuse")
            return TransitionCallbackReturn.FAILURE
        self.status = self.create_lifecycle_publisher(String, "~/status", 10)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.subscription = self.create_subscription(Image, "image", self.on_image, 10)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.destroy_subscription(self.subscription)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.destroy_publisher(self.status)
        return TransitionCallbackReturn.SUCCESS

    def on_image(self, image: Image) -> None:
        self.num_images += 1
        if self.num_images == self.get_parameter("die_at").value:
            print("about to die", flush=True)
            os._exit(3)
        stamp_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
        if self.num_images != self.get_parameter("silent_at").value:
            clock_ns = self.get_clock().now().nanoseconds
            self.status.publish(String(data=json.dumps({"stamp_ns": stamp_ns, "num": self.num_images, "clock_ns": clock_ns})))


def main() -> None:
    rclpy.init(args=sys.argv)
    node = EchoNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        print("asked to end", flush=True)
    node.destroy_node()


if __name__ == "__main__":
    main()
