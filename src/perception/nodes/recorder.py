"""Record topics as they are on the wire into an MCAP bag: matching QoS, nothing lost, counts for each topic."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from perception.core.errors import NodeError
from perception.core.timing import Stopwatch
from perception.io.bags import BagWriter
from perception.nodes.lifecycle_client import POLL_S, nothing, wait_until
from perception.nodes.message_types import message_class

QUEUE_LENGTH = 512
"""Messages that may wait for the disk; a longer queue holds the middleware's thread back instead of dropping."""
HISTORY_DEPTH = 200
DISCOVERY_PERIOD_S = 0.1


class Recorder:
    """Subscribes to each topic when its publisher appears and writes what arrives; `node` must be spun by another thread."""

    def __init__(self, node: Node, path: Path, topics: Sequence[str], now_ns: Callable[[], int], *, overwrite: bool = False) -> None:
        """`path`: folder of the bag to make · `now_ns`: the time that a message is filed under (the player's clock in a replay) ·
        `overwrite`: replace an older bag there."""
        self.path, self.topics = Path(path), tuple(topics)
        self._node, self._now_ns = node, now_ns
        self._counts: Counter[str] = Counter()
        self._failure: BaseException | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._queue: queue.Queue[tuple[str, str, bytes, int] | None] = queue.Queue(QUEUE_LENGTH)
        self._writer = BagWriter(self.path, overwrite=overwrite)
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()
        # On the steady clock, because simulated time stands still before a replay begins.
        self._timer = node.create_timer(DISCOVERY_PERIOD_S, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def counts(self) -> dict[str, int]:
        """Messages taken in so far, for each topic (0 for those that were silent)."""
        return {topic: self._counts[topic] for topic in self.topics}

    def wait_for_publishers(self, timeout_s: float, while_waiting: Callable[[], None] = nothing) -> None:
        """Until every topic is subscribed and matched; raises `NodeError` that names those which nobody publishes."""
        if not wait_until(lambda: not self._unmatched(), timeout_s, while_waiting):
            offered = sorted(name for name, _ in self._node.get_topic_names_and_types())
            raise NodeError(f"nobody publishes {', '.join(self._unmatched())} after {timeout_s:g} s; topics seen: {', '.join(offered)}")

    def wait_until_quiet(self, quiet_s: float = 0.5, timeout_s: float = 10.0) -> None:
        """Until nothing has come in for `quiet_s`, so that what the nodes said last is not cut off; gives up after `timeout_s`."""
        watch, total, quiet_since_s, elapsed_s = Stopwatch(), -1, 0.0, 0.0
        while elapsed_s - quiet_since_s < quiet_s and elapsed_s < timeout_s:
            if (now_total := sum(self._counts.values())) != total:
                total, quiet_since_s = now_total, elapsed_s
            time.sleep(POLL_S)
            elapsed_s += watch.lap()

    def _unmatched(self) -> list[str]:
        return [topic for topic in self.topics if topic not in self._subscriptions]

    def _discover(self) -> None:
        for topic in self._unmatched():
            publishers = self._node.get_publishers_info_by_topic(topic)
            if publishers:
                self._subscribe(topic, publishers[0].topic_type, [info.qos_profile for info in publishers])

    def _subscribe(self, topic: str, type_name: str, offered: list[QoSProfile]) -> None:
        # The strictest request that every publisher can meet.
        reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered)
        latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=HISTORY_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._writer.add_topic(topic, type_name, latched=latched)

        def receive(serialized: bytes) -> None:
            self._counts[topic] += 1
            self._queue.put((topic, type_name, serialized, self._now_ns()))

        self._subscriptions[topic] = self._node.create_subscription(message_class(type_name), topic, receive, profile, raw=True)

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._writer.write_raw(*item)
                except Exception as error:
                    self._failure = error  # keep emptying the queue, so that nobody waits for it; `stop` raises

    def stop(self) -> dict[str, int]:
        """Unsubscribe, write what is still queued, close the bag; returns the counts. Raises what the disk refused."""
        if self._thread.is_alive():
            self._node.destroy_timer(self._timer)
            for subscription in self._subscriptions.values():
                self._node.destroy_subscription(subscription)
            self._queue.put(None)
            self._thread.join()
            self._writer.close()
            if self._failure is not None:
                raise NodeError(f"{self.path}: recording failed: {self._failure}") from self._failure
        return self.counts
