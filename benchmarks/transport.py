"""Large messages between two processes: Fast DDS as it comes, its LARGE_DATA mode, and the shared-memory profile that ships with the package.

    .venv/bin/python benchmarks/transport.py [--messages 40]

Prints a Markdown table: median time from stamp to callback, and how many of the messages sent have arrived.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import product
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import Image, PointCloud2

from perception.nodes.processes import reserved_domain, ros_environment

KINDS = {"640x480 image": (Image, 640 * 480 * 3), "16 MB cloud": (PointCloud2, 16_000_000)}
RELIABILITIES = {"reliable": ReliabilityPolicy.RELIABLE, "best effort": ReliabilityPolicy.BEST_EFFORT}
PERIOD_S = 0.1
NUM_ROUNDS = 4
DISCOVERY_S = 1.0
QUIET_S = 2.0
"""The subscriber ends when nothing has come for so long."""


def publish(node: Node, kind: type, num_bytes: int, qos: QoSProfile, num_messages: int) -> None:
    """Send `num_messages` stamped messages once somebody listens."""
    publisher: Publisher = node.create_publisher(kind, "data", qos)
    message = kind()
    payload = array.array("B")
    payload.frombytes(bytes(num_bytes))
    message.data = payload
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    time.sleep(DISCOVERY_S)
    for _ in range(num_messages):
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        time.sleep(PERIOD_S)
    time.sleep(QUIET_S)


def subscribe(node: Node, kind: type, qos: QoSProfile, num_messages: int) -> list[float]:
    """Latency in ms of each message that arrives, until all have or the line is quiet."""
    latencies_ms: list[float] = []

    def received(message: Any) -> None:
        latencies_ms.append((node.get_clock().now() - Time.from_msg(message.header.stamp)).nanoseconds / 1e6)

    node.create_subscription(kind, "data", received, qos)
    deadline_s = time.monotonic() + DISCOVERY_S + num_messages * PERIOD_S + 2 * QUIET_S
    while len(latencies_ms) < num_messages and time.monotonic() < deadline_s:
        rclpy.spin_once(node, timeout_sec=0.2)
    return latencies_ms


def measure(kind: str, reliability: str, environment: dict[str, str], num_messages: int) -> list[float]:
    """Run publisher and subscriber as two processes of this file; returns the subscriber's latencies in ms."""
    command = [sys.executable, __file__, "--messages", str(num_messages), "--kind", kind, "--reliability", reliability, "--role"]
    subscriber = subprocess.Popen([*command, "subscriber"], env=environment, stdout=subprocess.PIPE, text=True)
    publisher = subprocess.Popen([*command, "publisher"], env=environment)
    output, _ = subscriber.communicate()
    publisher.wait()
    if subscriber.returncode or publisher.returncode:
        raise RuntimeError(f"subscriber ended with {subscriber.returncode}, publisher with {publisher.returncode}")
    return json.loads(output)


def environments(domain_id: int) -> dict[str, dict[str, str]]:
    """The process environment of each transport."""
    shipped = {**os.environ, **ros_environment(domain_id)}
    plain = {name: value for name, value in shipped.items() if name not in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")}
    return {
        "defaults": plain,
        "`FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA`": {**plain, "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
        "shipped profile": shipped,
    }


def report(num_messages: int) -> None:
    """Measure everything, the transports in turn so that the machine's other work hits all alike, and print the table."""
    columns = [(kind, reliability) for kind in KINDS for reliability in RELIABILITIES]
    per_round = max(1, num_messages // NUM_ROUNDS)
    with reserved_domain() as domain_id:
        transports = environments(domain_id)
        latencies_ms: dict[tuple[str, tuple[str, str]], list[float]] = {(name, column): [] for name in transports for column in columns}
        for column, index in product(columns, range(NUM_ROUNDS)):
            print(f"{', '.join(column)}: round {index + 1} of {NUM_ROUNDS}", file=sys.stderr)
            for name, environment in transports.items():
                latencies_ms[name, column] += measure(*column, environment, per_round)
    num_sent = per_round * NUM_ROUNDS
    print("| transport | " + " | ".join(", ".join(column) for column in columns) + " |")
    print("|---|" + "---|" * len(columns))
    baseline = next(iter(transports))
    for name in transports:
        print(f"| {name} | " + " | ".join(cell(latencies_ms[name, column], latencies_ms[baseline, column], num_sent) for column in columns) + " |")


def cell(latencies_ms: list[float], baseline_ms: list[float], num_sent: int) -> str:
    """Median, ratio to the baseline where all of that arrived, and received of sent."""
    arrived = f"{len(latencies_ms)}/{num_sent}"
    if not latencies_ms:
        return arrived
    median_ms = statistics.median(latencies_ms)
    ratio = f" ({statistics.median(baseline_ms) / median_ms:.1f}x)" if len(baseline_ms) == num_sent else ""
    return f"{median_ms:.1f} ms{ratio}, {arrived}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=40, help="messages sent for each figure")
    parser.add_argument("--role", choices=["publisher", "subscriber"], help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--reliability", choices=RELIABILITIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role is None:
        report(arguments.messages)
        return
    kind, num_bytes = KINDS[arguments.kind]
    qos = QoSProfile(depth=5, reliability=RELIABILITIES[arguments.reliability])
    rclpy.init(args=[])
    node = rclpy.create_node(arguments.role)
    if arguments.role == "publisher":
        publish(node, kind, num_bytes, qos, arguments.messages)
    else:
        print(json.dumps(subscribe(node, kind, qos, arguments.messages)))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
