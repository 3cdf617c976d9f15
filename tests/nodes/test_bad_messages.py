"""Bad messages: the counter rises, the node lives, the next good frame is worked on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from tests.nodes.fakes import QuickFeaturesNode
from tests.support.ros import CAMERA, FakeCamera, RosHarness

from perception.nodes.messages import camera_info_message, header_of

pytestmark = pytest.mark.ros


class NeedsCamera(QuickFeaturesNode):
    """As object_pose: no frame without calibration."""

    needs_camera = True


class Bench:
    """An active node, a camera and the node's status messages."""

    def __init__(self, ros: RosHarness, node: Any) -> None:
        self.ros, self.node, self.camera = ros, ros.add(node), FakeCamera(ros)
        self.status = ros.collect(String, "/features/status")
        node.trigger_configure()
        node.trigger_activate()
        self.camera.wait_for_node()
        assert ros.wait(lambda: ros.node.count_publishers("/features/status"))

    def counts(self) -> dict[str, int]:
        return self.node.diagnostics.statistics.counts()

    def refuses(self, message: Any, reason: str, text: str) -> None:
        """Send it: refused for `reason` with `text`; the next good frame goes through."""
        before, num_done = self.counts().get(f"refused_{reason}", 0), len(self.status)
        self.camera.images.publish(message)
        assert self.ros.wait(lambda: self.counts().get(f"refused_{reason}", 0) == before + 1), self.counts()
        assert text in self.node.diagnostics.last_error
        assert len(self.status) == num_done
        self.works()

    def works(self) -> None:
        """A good frame goes through; one that waited for its calibration may go before it."""
        stamp = self.camera.send()
        assert self.ros.wait(lambda: bool(self.status) and json.loads(self.status[-1].data)["stamp_ns"] == stamp), self.counts()


def changed(**values: object) -> Callable[[Image], Image]:
    def change(message: Image) -> Image:
        for name, value in values.items():
            setattr(message, name, value)
        return message

    return change


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        (changed(encoding="jpeg2000"), "content", "image encoding 'jpeg2000' is not handled"),
        (changed(step=10), "content", "image step 10: a row of 64 pixels in rgb8 takes 192 bytes"),
        (changed(width=0), "size", "image size 0x48: must be positive"),
        (changed(height=0), "size", "image size 64x0: must be positive"),
        (changed(data=b"\0" * 100), "content", "image data has 100 bytes"),
        (changed(header=header_of(0, "camera")), "zero_stamp", "its stamp is 0"),
        (changed(height=60_000, width=60_000), "too_large", "must not exceed max_image_pixels = 10000000"),
        (changed(encoding="16UC1", step=128), "content", "is not a colour image"),
    ],
    ids=["encoding", "step", "no width", "no height", "short data", "stamp", "too large", "depth"],
)
def test_bad_image(ros: RosHarness, change: Callable[[Image], Image], reason: str, text: str) -> None:
    bench = Bench(ros, QuickFeaturesNode())
    bench.works()
    bench.refuses(change(bench.camera.image()), reason, text)


def test_frames_out_of_order_are_refused_but_a_new_start_is_not(ros: RosHarness) -> None:
    bench = Bench(ros, QuickFeaturesNode())
    bench.camera.time_ns = 100_000_000_000
    bench.works()
    late = bench.camera.image(bench.camera.time_ns - 50_000_000)
    bench.camera.time_ns += 50_000_000
    bench.refuses(late, "out_of_order", "its stamp is 0.050 s before that of the last frame")
    bench.camera.time_ns = 1_000_000_000  # the bag was played again
    bench.works()


def test_no_calibration_yet_and_calibration_of_another_size(ros: RosHarness) -> None:
    bench = Bench(ros, NeedsCamera())
    bench.camera.images.publish(bench.camera.image())  # waits: its CameraInfo may be on the way
    assert ros.wait(lambda: bench.node._input._waiting is not None)
    bench.camera.images.publish(bench.camera.image())
    assert ros.wait(lambda: bench.counts().get("refused_no_camera_info") == 1)
    assert "no CameraInfo has come on /camera_info yet" in bench.node.diagnostics.last_error
    bench.works()
    image = bench.camera.image()
    bench.camera.send_info(replace(CAMERA, width=128))
    assert ros.wait(lambda: bench.node._input._camera.width == 128)
    bench.refuses(image, "camera_size", "image is 64x48, CameraInfo on /camera_info is for 128x48")


@pytest.mark.parametrize(("focal", "text"), [(0.0, "must be positive"), (float("nan"), "must be finite")])
def test_intrinsics_that_cannot_be(ros: RosHarness, focal: float, text: str) -> None:
    bench = Bench(ros, NeedsCamera())
    image = bench.camera.image()
    info: CameraInfo = camera_info_message(CAMERA, image.header)
    info.k[0] = focal
    bench.camera.infos.publish(info)
    assert ros.wait(lambda: bench.node._input._camera_error)
    bench.refuses(image, "camera_info", text)


def test_calibration_that_comes_after_the_first_image(ros: RosHarness) -> None:
    bench = Bench(ros, NeedsCamera())
    message = bench.camera.image()
    bench.camera.images.publish(message)
    assert ros.wait(lambda: bench.node._input._waiting is not None)
    bench.camera.send_info()
    assert ros.wait(lambda: bench.status)
    assert bench.counts().get("refused", 0) == 0


def test_truncated_jpeg(ros: RosHarness) -> None:
    node = QuickFeaturesNode(parameter_overrides=[Parameter("image.compressed", value=True)])
    ros.add(node)
    publisher, status = ros.node.create_publisher(CompressedImage, "/image/compressed", 1), ros.collect(String, "/features/status")
    node.trigger_configure()
    node.trigger_activate()
    assert ros.wait(publisher.get_subscription_count)
    jpeg = cv2.imencode(".jpg", FakeCamera(ros).pixels)[1].tobytes()
    publisher.publish(CompressedImage(header=header_of(10**9, "camera"), format="jpeg", data=b"\xff\xd8 no jpeg"))
    assert ros.wait(lambda: node.diagnostics.statistics.counts().get("refused_content") == 1)
    publisher.publish(CompressedImage(header=header_of(2 * 10**9, "camera"), format="jpeg", data=jpeg))
    assert ros.wait(lambda: status)


def test_an_exception_in_a_step_is_counted_and_shown_in_diagnostics(ros: RosHarness) -> None:
    bench = Bench(ros, QuickFeaturesNode())
    diagnostics = ros.collect(DiagnosticArray, "/diagnostics")
    bench.works()
    bench.node.quick.error = RuntimeError("out of memory")
    bench.camera.send()
    assert ros.wait(lambda: bench.counts().get("errors") == 1)
    bench.node.quick.error = None
    bench.works()

    def last() -> dict[str, str]:
        return {value.key: value.value for value in diagnostics[-1].status[0].values} if diagnostics else {}

    assert ros.wait(lambda: last().get("errors") == "1" and last().get("processed") == "2")
    values = last()
    assert values["last_error"] == "RuntimeError: out of memory"
    assert values["extractor"] == "quick"
    assert values["state"] == "active"
    assert float(values["latency_p95_ms"]) > 0
    assert diagnostics[-1].status[0].level == DiagnosticStatus.WARN


def test_rate_limit_by_stamps(ros: RosHarness) -> None:
    node = QuickFeaturesNode(parameter_overrides=[Parameter("max_rate_hz", value=5.0)])
    bench = Bench(ros, node)
    for num_sent in range(1, 7):  # 10 Hz by their stamps
        bench.camera.send()
        assert ros.wait(lambda expected=num_sent: bench.counts().get("processed", 0) + bench.counts().get("skipped", 0) == expected)
    assert (bench.counts()["processed"], bench.counts()["skipped"]) == (3, 3)
