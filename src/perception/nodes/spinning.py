"""Run camera nodes in this process until it is asked to end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, ShutdownException
from rclpy.signals import SignalHandlerOptions

if TYPE_CHECKING:
    from perception.nodes.base import CameraNode

THREADS_PER_NODE = 3
"""Images, the services (one of which may take long) and the timers of a node."""
END_TIMEOUT_S = 5.0


def spin_until_shutdown(executor: Executor) -> None:
    """Spin until the executor or its context is shut down; other exceptions of callbacks come through.

    rclpy has a race: an entity that is destroyed in one thread while the executor waits for it in another can end `spin` with InvalidHandle. That
    says nothing but that the entity is gone, so spinning goes on.
    """
    while True:
        try:
            executor.spin()
            return
        except InvalidHandle:
            continue
        except (ExternalShutdownException, ShutdownException):
            return


class _SpinThread(threading.Thread):
    """Spins the executor; an exception that ends it is kept for the main thread."""

    def __init__(self, executor: MultiThreadedExecutor, ended: threading.Event) -> None:
        super().__init__(name="spin", daemon=True)
        self._executor, self._ended = executor, ended
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            spin_until_shutdown(self._executor)
        except BaseException as error:
            self.error = error
        finally:
            self._ended.set()


def spin(make_nodes: Callable[[], Sequence[CameraNode]], args: Sequence[str] | None = None) -> int:
    """Make nodes and spin them until Ctrl-C or SIGTERM; returns the exit code. ROS arguments in `args` hold for all of them.

    Must be called in the main thread. rclpy's own signal handlers are not used: they make the context invalid at once, in the middle of whatever
    executor and workers are doing. Here the workers end their step first, and a second signal ends the process the hard way.
    """
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    rclpy.init(args=list(args) if args is not None else sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    nodes: Sequence[CameraNode] = ()
    try:
        nodes = make_nodes()
        executor = MultiThreadedExecutor(num_threads=THREADS_PER_NODE * len(nodes) + 1)
        for node in nodes:
            executor.add_node(node)
        thread = _SpinThread(executor, ended)
        thread.start()
        ended.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        # Workers first: a thread that is inside the middleware when the interpreter goes aborts the process.
        for node in nodes:
            node.stop_work()
        executor.shutdown(timeout_sec=END_TIMEOUT_S)
        thread.join(END_TIMEOUT_S)
        if thread.error is not None:
            raise thread.error
    finally:
        for node in nodes:
            node.close()
        rclpy.try_shutdown()
    return 0
