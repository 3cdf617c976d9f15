"""What a node says about itself: /diagnostics once a second, and log lines that do not repeat for every frame."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from perception.core.timing import StreamStatistics

PERIOD_S = 1.0
RECENT_S = 5.0
"""A refused frame or an error keeps the level at WARN for this long."""


class ThrottledLog:
    """Warnings at most once in `period_s` for each key, with the number of those kept back."""

    def __init__(self, node: Node, period_s: float = 5.0) -> None:
        self._node, self._period_s = node, period_s
        self._lock = threading.Lock()
        self._last_s: dict[str, float] = {}
        self._kept_back: dict[str, int] = {}

    def warn(self, key: str, text: str) -> None:
        """Log `text` unless a line with this key was logged a short while ago."""
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._last_s.get(key, -math.inf) < self._period_s:
                self._kept_back[key] = self._kept_back.get(key, 0) + 1
                return
            self._last_s[key] = now_s
            kept_back = self._kept_back.pop(key, 0)
        self._node.get_logger().warning(text + (f" (and {kept_back} times since the last line)" if kept_back else ""))


class Diagnostics:
    """Counts what happens to the frames of one node and publishes it on /diagnostics."""

    def __init__(self, node: Node, describe: Callable[[], Mapping[str, str]]) -> None:
        """`describe` adds what only the node knows, such as backend and objects; it must not raise."""
        self._node, self._describe = node, describe
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.log = ThrottledLog(node)
        self.statistics = StreamStatistics()
        self.last_error = ""
        self._last_trouble_s = -math.inf
        # Wall time: with a paused /clock a node must still say that it lives.
        self._timer = node.create_timer(PERIOD_S, self.publish, MutuallyExclusiveCallbackGroup(), clock=Clock(clock_type=ClockType.STEADY_TIME))

    def refused(self, reason: str, text: str) -> None:
        """A frame was not worked on. `reason` is a counter's name, `text` says what was found and what is needed."""
        self.statistics.count("refused")
        self.statistics.count(f"refused_{reason}")
        self._trouble(reason, text)

    def error(self, error: Exception) -> None:
        """A step failed for another reason than its input; the node goes on."""
        self.statistics.count("errors")
        self._trouble(type(error).__name__, f"{type(error).__name__}: {error}")

    def _trouble(self, key: str, text: str) -> None:
        self.last_error, self._last_trouble_s = text, time.monotonic()
        self.log.warn(key, text)

    def values(self) -> dict[str, str]:
        """All figures as text."""
        statistics = self.statistics
        counts = {"processed": 0, "dropped": 0, "refused": 0, "errors": 0} | statistics.counts()
        latencies = {f"latency_p{round(100 * q)}_ms": 1e3 * statistics.latency_s(q) for q in (0.5, 0.95)}
        return {
            "rate_hz": f"{statistics.rate_hz():.2f}",
            **{name: f"{value:.1f}" for name, value in latencies.items()},
            **{name: str(value) for name, value in counts.items()},
            **self._describe(),
            "last_error": self.last_error,
        }

    def publish(self) -> None:
        """One DiagnosticArray with one status."""
        troubled = time.monotonic() - self._last_trouble_s < RECENT_S
        status = DiagnosticStatus(name=self._node.get_fully_qualified_name().lstrip("/"), hardware_id=self._node.get_namespace())
        status.level = DiagnosticStatus.WARN if troubled else DiagnosticStatus.OK
        status.message = self.last_error if troubled else "ok"
        status.values = [KeyValue(key=key, value=value) for key, value in self.values().items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def close(self) -> None:
        """Give timer and publisher back."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
