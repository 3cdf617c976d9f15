"""From a type's name in a bag or the graph to its class, and from serialized bytes to the stamp."""

from __future__ import annotations

import importlib
import struct

from perception.core.errors import MissingDependencyError


def message_class(type_name: str) -> type:
    """`sensor_msgs/msg/Image` → the class. Raises `MissingDependencyError` when the package is not installed (tf2_msgs is not on PyPI)."""
    package, _, name = type_name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"message type {type_name!r} is not known here: install the ROS package {package!r} "
            f"(in a venv: pip install ros-{package.replace('_', '-')})"
        ) from error


def header_stamp_ns(serialized: bytes | memoryview) -> int:
    """The stamp of a serialized message whose first field is a std_msgs/Header, without reading the rest.

    CDR: four bytes of encapsulation (the lowest bit of the second: little endian), then sec int32 and nanosec uint32.
    """
    view = memoryview(serialized)
    seconds, nanoseconds = struct.unpack_from("<iI" if view[1] & 1 else ">iI", view, 4)
    return seconds * 1_000_000_000 + nanoseconds
