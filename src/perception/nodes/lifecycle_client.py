"""Lead a lifecycle node through its states from outside, with time-outs and clear errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node

from perception.core.errors import NodeError
from perception.core.timing import Stopwatch

POLL_S = 0.02
"""How soon a waiting call notices that the node's process has ended."""


def nothing() -> None:
    """The default of `while_waiting`."""


def wait_until(condition: Callable[[], bool], timeout_s: float, while_waiting: Callable[[], None] = nothing) -> bool:
    """Poll `condition` until it holds (True) or `timeout_s` has passed (False); `while_waiting` may raise to end the wait."""
    watch, pause = Stopwatch(), threading.Event()
    elapsed_s = 0.0
    while not condition():
        while_waiting()
        elapsed_s += watch.lap()
        if elapsed_s > timeout_s:
            return False
        pause.wait(POLL_S)
    return True


def call_service(client: Client, request: Any, timeout_s: float, while_waiting: Callable[[], None] = nothing) -> Any:
    """The answer of a service; the client's node must be spun by another thread. Raises `NodeError` when none comes in time."""
    name = client.service_name
    if not wait_until(client.service_is_ready, timeout_s, while_waiting):
        raise NodeError(f"service {name} did not appear within {timeout_s:g} s: is the node running, in the same ROS domain?")
    done = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: done.set())
    if not wait_until(done.is_set, timeout_s, while_waiting):
        client.remove_pending_request(future)
        raise NodeError(f"service {name} did not answer within {timeout_s:g} s")
    return future.result()


class LifecycleClient:
    """Transitions of one lifecycle node. `node` must be spun by another thread (see `session.RosSession`)."""

    def __init__(self, node: Node, target: str, *, timeout_s: float = 60.0, while_waiting: Callable[[], None] = nothing) -> None:
        """`target`: full name of the node, such as `/features`. `while_waiting` is called every 20 ms, such as `NodeProcess.check`."""
        self.target = "/" + target.strip("/")
        self._node, self._timeout_s, self._while_waiting = node, timeout_s, while_waiting
        self._change: Client = node.create_client(ChangeState, f"{self.target}/change_state")
        self._get: Client = node.create_client(GetState, f"{self.target}/get_state")

    def state(self) -> str:
        """Label of the current state: `unconfigured`, `inactive`, `active` or `finalized`."""
        return call_service(self._get, GetState.Request(), self._timeout_s, self._while_waiting).current_state.label

    def configure(self) -> None:
        """Load weights and databases; from unconfigured to inactive."""
        self._transition(Transition.TRANSITION_CONFIGURE, "configure")

    def activate(self) -> None:
        """Start to subscribe and to work; from inactive to active."""
        self._transition(Transition.TRANSITION_ACTIVATE, "activate")

    def deactivate(self) -> None:
        """Stop to subscribe; from active to inactive."""
        self._transition(Transition.TRANSITION_DEACTIVATE, "deactivate")

    def cleanup(self) -> None:
        """Return all memory; from inactive to unconfigured."""
        self._transition(Transition.TRANSITION_CLEANUP, "cleanup")

    def shutdown(self) -> None:
        """Finalize the node, from whatever state it is in."""
        by_state = {
            "unconfigured": Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
            "inactive": Transition.TRANSITION_INACTIVE_SHUTDOWN,
            "active": Transition.TRANSITION_ACTIVE_SHUTDOWN,
        }
        state = self.state()
        if state not in by_state:
            raise NodeError(f"{self.target}: cannot shut down from state {state!r}; possible from {', '.join(by_state)}")
        self._transition(by_state[state], "shutdown")

    def close(self) -> None:
        """Give the two service clients back."""
        self._node.destroy_client(self._change)
        self._node.destroy_client(self._get)

    def _transition(self, number: int, label: str) -> None:
        request = ChangeState.Request(transition=Transition(id=number, label=label))
        if not call_service(self._change, request, self._timeout_s, self._while_waiting).success:
            raise NodeError(f"{self.target}: transition {label!r} was refused or failed (the node is now {self.state()!r}); its log says why")
