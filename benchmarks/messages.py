"""Filling and reading an Image of 640x480 and a PointCloud2 of a million points, against the naive ways.

    python benchmarks/messages.py

Prints medians of one run and the ratios between them; only the ratios are worth quoting.
"""

from __future__ import annotations

import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2

from perception.core.config import Checked, Range
from perception.io.ros_images import image_to_array
from perception.nodes.messages import data_bytes, header_of, image_message, point_cloud_message, points_from_message

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])


@dataclass(frozen=True, kw_only=True)
class Arguments(Checked):
    """Size of the run."""

    num_points: Annotated[int, Range(1, None)] = 1_000_000
    """Points of the cloud."""
    repeats: Annotated[int, Range(1, None)] = 9
    """Runs of the quick ways; the slow ones run three times at most."""


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call; one call goes before."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def assigned(message: Image | PointCloud2, data: object) -> None:
    """Assign `data` to the message, as a node would before it publishes."""
    message.data = data


def image_ways() -> dict[str, dict[str, Callable[[], object]]]:
    """Naive and own ways to fill and to read an image."""
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    header = header_of(1, "camera")
    message = image_message(pixels, "rgb8", header)
    return {
        "Image 640x480 rgb8, fill": {
            "own: image_message": lambda: image_message(pixels, "rgb8", header),
            "data = array.tobytes()": lambda: assigned(message, pixels.tobytes()),
            "data = array.ravel().tolist()": lambda: assigned(message, pixels.ravel().tolist()),
            "data = array.ravel()": lambda: assigned(message, pixels.ravel()),
        },
        "Image 640x480 rgb8, read": {
            "own: image_to_array": lambda: image_to_array(message),
            "np.array(list(data))": lambda: np.array(list(message.data), np.uint8).reshape(480, 640, 3),
        },
    }


def cloud_ways(num_points: int) -> dict[str, dict[str, Callable[[], object]]]:
    """Naive and own ways to fill and to read a cloud of x, y, z and packed colour."""
    rng = np.random.default_rng(0)
    points = np.zeros(num_points, POINT)
    for name in "xyz":
        points[name] = rng.normal(size=num_points)
    header = header_of(1, "camera")
    message = point_cloud_message(points, header)

    def packed_by_point() -> None:
        buffer = bytearray(16 * num_points)
        for index, point in enumerate(points.tolist()):
            struct.pack_into("<fffI", buffer, 16 * index, *point)
        message.data = data_bytes(np.frombuffer(buffer, np.uint8))

    def unpacked_by_point() -> np.ndarray:
        return np.array(list(struct.iter_unpack("<fffI", message.data.tobytes())))

    def copied_out() -> np.ndarray:
        return points_from_message(message).copy()

    name = f"PointCloud2 {num_points} points x y z rgb"
    return {
        f"{name}, fill": {
            "own: point_cloud_message": lambda: point_cloud_message(points, header),
            "struct.pack_into for each point": packed_by_point,
            "data = array.tobytes()": lambda: assigned(message, points.tobytes()),
            "data = bytes as list": lambda: assigned(message, points.view(np.uint8).tolist()),
        },
        f"{name}, read": {
            "own: points_from_message (a view)": lambda: points_from_message(message),
            "own, copied out": copied_out,
            "struct.iter_unpack": unpacked_by_point,
        },
    }


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    ways = image_ways() | cloud_ways(arguments.num_points)
    for title, functions in ways.items():
        print(f"\n| {title} | ms | times the first |\n|---|---|---|")
        reference = None
        for name, work in functions.items():
            quick = name.startswith("own")
            elapsed = median_ms(work, arguments.repeats if quick else min(3, arguments.repeats))
            reference = reference or elapsed
            print(f"| {name} | {elapsed:.3f} | {elapsed / reference:.1f} |")
    message = image_message(np.zeros((480, 640, 3), np.uint8), "rgb8", header_of(1, "camera"))
    raw = serialize_message(message)
    written, read = median_ms(lambda: serialize_message(message), 9), median_ms(lambda: deserialize_message(raw, Image), 9)
    print(f"\nThe image to bytes and back by rclpy: {written:.3f} ms, {read:.3f} ms")


if __name__ == "__main__":
    main()
