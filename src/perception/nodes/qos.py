"""Quality of service of image streams and of what the nodes publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from perception.core.config import Checked, Range


@dataclass(frozen=True, kw_only=True)
class ImageQosConfig(Checked):
    """How images are subscribed to."""

    reliability: Literal["best_effort", "reliable"] = "best_effort"
    """best_effort fits every publisher; reliable also has lost packets sent again, which a camera driver must offer."""
    depth: Annotated[int, Range(1, 100, "messages")] = 1
    """Messages that the middleware keeps. 1 makes sure that the newest is worked on."""
    compressed: bool = False
    """Subscribe to <image topic>/compressed (sensor_msgs/CompressedImage) instead of raw images."""


def subscription_qos(config: ImageQosConfig) -> QoSProfile:
    """The profile of an image subscription."""
    reliability = ReliabilityPolicy.RELIABLE if config.reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(reliability=reliability, history=HistoryPolicy.KEEP_LAST, depth=config.depth)


RESULT_QOS = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10)
"""Small results, such as poses and status: reliable, so that every subscriber is compatible."""
LARGE_RESULT_QOS = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=2)
"""Images and clouds: reliable with a short history, so that a slow reader cannot make memory grow."""
LATCHED_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST, depth=1
)
"""Kept for subscribers that come later."""
