"""The image and camera_info topics of one camera: pairs them, refuses what cannot be used, and turns messages into frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera, Frame
from perception.io.ros_images import camera_from_info, message_to_rgb, stamp_ns
from perception.nodes.diagnostics import Diagnostics
from perception.nodes.qos import ImageQosConfig, subscription_qos

STREAM_RESTART_NS = 3_000_000_000
"""A stamp this much older than the last one is a stream that began anew (a bag played in a loop, a clock set back), not a late frame."""


@dataclass(frozen=True, kw_only=True)
class InputLimits(Checked):
    """What is accepted from the camera."""

    max_rate_hz: Annotated[float, Range(0.0, 1000.0, "Hz")] = 0.0
    """Frames that come sooner after the last accepted one are skipped, by their stamps. 0: no limit."""
    max_image_pixels: Annotated[int, Range(1, 1_000_000_000, "px")] = 10_000_000
    """Larger images are refused before they are converted."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """An image message that passed the checks of its header, with its camera and the monotonic time of its arrival."""

    message: Any
    camera: Camera | None
    source: str
    arrived_s: float

    def frame(self) -> Frame:
        """Convert the pixels; InputError when they cannot be."""
        pixels = message_to_rgb(self.message)
        stamp, frame_id = stamp_ns(self.message.header.stamp), self.message.header.frame_id
        return Frame(pixels, stamp, self.camera, frame_id, self.source)


class Refusal(InputError):
    """Why a message is not accepted; `reason` names its counter."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class CameraInput:
    """Subscribes to `image` and `camera_info` while it exists and calls `accept` with each image that passes.

    Checks here look at headers only, so that a bad message never takes the place of a good one that waits to be worked on.
    """

    def __init__(
        self,
        node: Node,
        qos: ImageQosConfig,
        limits: Callable[[], InputLimits],
        diagnostics: Diagnostics,
        accept: Callable[[Arrival], None],
        *,
        needs_camera: bool,
    ) -> None:
        """`limits` is asked for every image, because they may change while the node runs."""
        self._node, self._limits, self._diagnostics, self._accept, self._needs_camera = node, limits, diagnostics, accept, needs_camera
        self._info: CameraInfo | None = None
        self._camera: Camera | None = None
        self._camera_error = ""
        self._info_ns = -1
        self._waiting: tuple[Any, float] | None = None
        self._last_ns: int | None = None
        # Groups of its own: services and timers of the node do not hold up images. One group for both topics: no lock is needed.
        group = MutuallyExclusiveCallbackGroup()
        profile = subscription_qos(qos)
        topic = node.resolve_topic_name("image") + ("/compressed" if qos.compressed else "")
        kind = CompressedImage if qos.compressed else Image
        self._images = node.create_subscription(kind, topic, self._guarded(self._on_image), profile, callback_group=group)
        info_profile = subscription_qos(ImageQosConfig(reliability=qos.reliability, depth=max(qos.depth, 5)))
        self._infos = node.create_subscription(CameraInfo, "camera_info", self._guarded(self._on_info), info_profile, callback_group=group)
        self.source = self._images.topic_name

    def close(self) -> None:
        """End both subscriptions."""
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._infos)

    def _guarded(self, callback: Callable[[Any], object]) -> Callable[[Any], None]:
        def run(message: Any) -> None:
            try:
                callback(message)
            except Refusal as refusal:
                self._diagnostics.refused(refusal.reason, f"frame on {self.source} refused: {refusal}")
            except Exception as error:  # an exception that leaves a callback ends the executor, and with it the node
                self._diagnostics.error(error)

        return run

    def _on_info(self, message: CameraInfo) -> None:
        if self._info is None or _calibration(message) != _calibration(self._info):
            self._info, self._camera, self._camera_error = message, None, ""
            try:
                self._camera = camera_from_info(message)
            except InputError as error:
                self._camera_error = str(error)
        self._info_ns = stamp_ns(message.header.stamp)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._pair(*waiting)

    def _on_image(self, message: Any) -> None:
        arrived_s = time.monotonic()
        self._check_image(message)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._guarded(self._camera_for)(waiting[0])
        self._pair(message, arrived_s)

    def _pair(self, message: Any, arrived_s: float) -> None:
        """Accept the image if there is calibration for it. If not, it waits until its own CameraInfo or the next image has come: the two topics may
        deliver in either order.
        """
        try:
            camera = self._camera_for(message)
        except Refusal:
            if self._info_ns >= stamp_ns(message.header.stamp):
                raise
            self._waiting = (message, arrived_s)
            return
        time_ns = stamp_ns(message.header.stamp)
        restarted = self._check_order(time_ns)
        limit_hz = self._limits().max_rate_hz
        if limit_hz and self._last_ns is not None and not restarted and time_ns - self._last_ns < 0.99e9 / limit_hz:
            self._diagnostics.statistics.count("skipped")
            return
        self._last_ns = time_ns
        self._accept(Arrival(message, camera, self.source, arrived_s))

    def _check_image(self, message: Any) -> None:
        if stamp_ns(message.header.stamp) == 0:
            raise Refusal("zero_stamp", "its stamp is 0: the publisher must set header.stamp")
        if isinstance(message, CompressedImage):
            return
        if message.width == 0 or message.height == 0:
            raise Refusal("size", f"image size {message.width}x{message.height}: must be positive")
        limit = self._limits().max_image_pixels
        if message.width * message.height > limit:
            raise Refusal("too_large", f"image size {message.width}x{message.height}: must not exceed max_image_pixels = {limit}")

    def _check_order(self, time_ns: int) -> bool:
        """Whether the stream has begun anew; raises Refusal for a late frame."""
        if self._last_ns is None or time_ns > self._last_ns:
            return False
        if self._last_ns - time_ns > STREAM_RESTART_NS:
            return True
        late_s = (self._last_ns - time_ns) / 1e9
        raise Refusal("out_of_order", f"its stamp is {late_s:.3f} s before that of the last frame: stamps must increase")

    def _camera_for(self, message: Any) -> Camera | None:
        camera = self._camera
        if self._camera_error and self._needs_camera:
            raise Refusal("camera_info", f"the CameraInfo on {self._infos.topic_name} cannot be used: {self._camera_error}")
        if camera is None:
            if self._needs_camera:
                raise Refusal(
                    "no_camera_info", f"no CameraInfo has come on {self._infos.topic_name} yet: is the topic right, and does the camera publish it?"
                )
            return None
        if isinstance(message, Image) and (camera.width, camera.height) != (message.width, message.height):
            sizes = f"image is {message.width}x{message.height}, CameraInfo on {self._infos.topic_name} is for {camera.width}x{camera.height}"
            text = f"{sizes}: sizes must be equal"
            if self._needs_camera:
                raise Refusal("camera_size", text)
            self._diagnostics.log.warn("camera_size", text + "; going on without it")
            return None
        return camera


def _calibration(message: CameraInfo) -> tuple:
    region = message.roi
    size = (message.width, message.height, message.binning_x, message.binning_y)
    return (*size, message.distortion_model, *message.d, *message.k, region.x_offset, region.y_offset, region.width, region.height)
