"""A ROS context with one node that one thread spins: what the command line needs to talk to running nodes."""

from __future__ import annotations

import os
import threading
from types import TracebackType

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from perception.nodes.spinning import spin_until_shutdown


class RosSession:
    """`with RosSession("player", environment) as session: session.node...`; callbacks run in a thread of the session.

    The environment (see `processes.ros_environment`) is set in this process while the session lasts, because the middleware reads it
    when the context is made.
    """

    def __init__(self, node_name: str, environment: dict[str, str]) -> None:
        self._node_name, self.environment = node_name, environment
        self._previous: dict[str, str | None] = {}
        self._failure: Exception | None = None
        self.context = Context()

    def __enter__(self) -> RosSession:
        self._previous = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        rclpy.init(args=[], context=self.context, domain_id=int(self.environment["ROS_DOMAIN_ID"]))
        self.node = Node(self._node_name, context=self.context, enable_rosout=False, start_parameter_services=False)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=f"spin {self._node_name}", daemon=True)
        self._thread.start()
        return self

    def _spin(self) -> None:
        try:
            spin_until_shutdown(self.executor)
        except Exception as error:
            self._failure = error  # `check` raises it in the thread that waits

    def check(self) -> None:
        """Raise what ended the thread of the session, if anything did: without it all waiting would be in vain."""
        if self._failure is not None:
            raise self._failure

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        # The thread must be joined before the interpreter goes: a daemon thread inside the middleware aborts the process.
        self.executor.shutdown(timeout_sec=5.0)
        self._thread.join(timeout=5.0)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context, uninstall_handlers=False)
        for name, value in self._previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
