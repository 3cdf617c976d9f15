"""Run camera nodes in this process until it is asked to end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor

from perception.nodes.base import CameraNode

THREADS_PER_NODE = 3
"""Images, the services (one of which may take long) and the timers of a node."""


def spin(make_nodes: Callable[[], Sequence[CameraNode]], args: Sequence[str] | None = None) -> int:
    """Make nodes and spin them until Ctrl-C or SIGTERM; returns the exit code. ROS arguments in `args` hold for all of them."""
    rclpy.init(args=list(args) if args is not None else sys.argv)
    executor: MultiThreadedExecutor | None = None
    nodes: Sequence[CameraNode] = ()
    try:
        nodes = make_nodes()
        executor = MultiThreadedExecutor(num_threads=THREADS_PER_NODE * len(nodes) + 1)
        for node in nodes:
            executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Workers first: a thread that is inside the middleware when the interpreter goes aborts the process.
        for node in nodes:
            node.stop_work()
        if executor is not None:
            executor.shutdown(timeout_sec=5.0)
        for node in nodes:
            node.close()
        rclpy.try_shutdown()
    return 0
