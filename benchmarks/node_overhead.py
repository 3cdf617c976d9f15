"""What the nodes add to their pipelines: from the stamp of a 640x480 image to the publication of the result, minus the pipeline's own step.

    python benchmarks/node_overhead.py

Starts the `features` and `object_pose` nodes as processes (Fast DDS, shared memory), publishes stamped images at real time and prints median and
95th percentile. The time of publication is the one that the middleware writes into each result when the node publishes it, so the overhead holds
transport to the node, conversion, waiting for the worker, and making and handing over of all messages that are subscribed to. The goal is at most
15 % of the step or 8 ms, whichever is larger.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro
from geometry_msgs.msg import PoseArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from perception.core.config import Checked, Range
from perception.core.types import Camera, Frame, ReferenceView
from perception.nodes.lifecycle_client import LifecycleClient, wait_until
from perception.nodes.messages import camera_info_message, header_of, image_message, stamp_of
from perception.nodes.processes import NodeProcess, reserved_domain, ros_environment
from perception.nodes.session import RosSession
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPoseConfig

CAMERA = Camera(640, 480, 560.0, 560.0, 319.5, 239.5)
RESULTS = {"features": (Image, "features"), "object_pose": (PoseArray, "poses")}
GOAL_SHARE, GOAL_MS = 0.15, 8.0
RESULT_TIMEOUT_S = 120.0
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


@dataclass(frozen=True, kw_only=True)
class Arguments(Checked):
    """Size of the run."""

    num_frames: Annotated[int, Range(5, None)] = 60
    """Measured frames of each node."""
    rate_hz: Annotated[float, Range(0.1, 100.0, "Hz")] = 10.0
    """Images per second at most; the next one waits for the results of the last, so that no frame is dropped or waits for a step before its own."""
    log_dir: str = ""
    """Folder for the logs of the nodes; empty: they are deleted."""
    together: bool = False
    """Both nodes at the same time instead of one after the other; on two cores each then slows the other's step."""


@dataclass
class Times:
    """What came back, by the stamp of the image in nanoseconds."""

    published_ns: dict[int, int] = field(default_factory=dict)
    step_s: dict[int, float] = field(default_factory=dict)

    def overheads_ms(self) -> np.ndarray:
        """(num,) one overhead for each frame that came back whole."""
        both = sorted(self.published_ns.keys() & self.step_s.keys())
        return np.array([1e-6 * (self.published_ns[stamp] - stamp) - 1e3 * self.step_s[stamp] for stamp in both])


def texture() -> np.ndarray:
    """An image with structure at many scales."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.uniform(0, 85, (size * 3 // 4, size, 3)), (640, 480), interpolation=cv2.INTER_CUBIC) for size in (8, 40, 160)]
    return np.clip(sum(layers), 0, 255).astype(np.uint8)


def save_database(path: Path) -> None:
    """The image as a flat object one metre away."""
    frame = Frame(texture(), 1, CAMERA, "camera", depth_m=np.ones((480, 640), np.float32))
    features = DenseFeatures(OneShotPoseConfig().features)
    build_database("poster", [ReferenceView(frame, np.eye(4))], features, OnboardingConfig(max_descriptors=10_000)).save(path)


def subscribe(node: Node, name: str) -> Times:
    """Collect the results and the status of a node."""
    times, (kind, topic) = Times(), RESULTS[name]

    def on_result(message: Any, info: dict[str, int]) -> None:
        stamp = message.header.stamp
        times.published_ns[stamp.sec * 10**9 + stamp.nanosec] = info["source_timestamp"]

    def on_status(message: String) -> None:
        status = json.loads(message.data)
        times.step_s[status["stamp_ns"]] = status["step_s"]

    node.create_subscription(kind, f"/{name}/{topic}", on_result, RELIABLE)
    node.create_subscription(String, f"/{name}/status", on_status, RELIABLE)
    return times


def measure(names: list[str], arguments: Arguments, folder: Path) -> dict[str, Times]:
    """Run the nodes `names` at the same time."""
    with reserved_domain() as domain_id:
        environment = ros_environment(domain_id)
        extra = {"features": [], "object_pose": ["-p", f"databases:=[{folder / 'poster.safetensors'}]"]}
        processes = [
            NodeProcess(f"perception.nodes.{name}_node", Path(arguments.log_dir or folder) / f"{name}.log", environment, arguments=extra[name])
            for name in names
        ]
        try:
            with RosSession("overhead", environment) as session:
                times = {name: subscribe(session.node, name) for name in names}
                images = session.node.create_publisher(Image, "/image", 1)
                infos = session.node.create_publisher(CameraInfo, "/camera_info", 1)
                for process, name in zip(processes, names, strict=True):
                    client = LifecycleClient(session.node, f"/{name}", timeout_s=120.0, while_waiting=process.check)
                    client.configure()
                    client.activate()
                assert wait_until(lambda: images.get_subscription_count() == len(names) == infos.get_subscription_count(), 30.0)
                play(images, infos, list(times.values()), arguments)
        finally:
            for process in processes:
                process.stop()
    return times


def play(images: Any, infos: Any, results: list[Times], arguments: Arguments) -> None:
    """Publish the image, shifted a little from frame to frame."""
    pixels, pause = texture(), threading.Event()
    for index in range(arguments.num_frames):
        message = image_message(np.roll(pixels, index % 8, axis=1), "rgb8", header_of(0, "camera"))
        stamp_ns = time.time_ns()
        message.header.stamp = stamp_of(stamp_ns)
        infos.publish(camera_info_message(CAMERA, message.header))
        images.publish(message)
        if not wait_until(lambda stamp=stamp_ns: all(stamp in times.step_s and stamp in times.published_ns for times in results), RESULT_TIMEOUT_S):
            raise SystemExit(f"no result within {RESULT_TIMEOUT_S:g} s; --log-dir keeps the logs of the nodes")
        pause.wait(max(0.0, 1 / arguments.rate_hz - 1e-9 * (time.time_ns() - stamp_ns)))


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        save_database(Path(folder) / "poster.safetensors")
        groups = [list(RESULTS)] if arguments.together else [[name] for name in RESULTS]
        found = {name: times for group in groups for name, times in measure(group, arguments, Path(folder)).items()}
    print("| node | frames | step median ms | overhead median ms | overhead p95 ms | goal ms | median within |\n|---|---|---|---|---|---|---|")
    for name, times in found.items():
        overheads = times.overheads_ms()
        step_ms = 1e3 * float(np.median(list(times.step_s.values())))
        goal_ms = max(GOAL_SHARE * step_ms, GOAL_MS)
        median, p95 = np.quantile(overheads, [0.5, 0.95])
        print(f"| {name} | {len(overheads)} | {step_ms:.1f} | {median:.1f} | {p95:.1f} | {goal_ms:.1f} | {'yes' if median <= goal_ms else 'no'} |")


if __name__ == "__main__":
    main()
