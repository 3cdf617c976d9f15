"""Play a bag into ROS topics in simulated time: the recorded bytes as they are, `/clock` driven by the stamps.

Lock-step waits after each image until the nodes answered for it, so that a slow machine gives the same result as a fast one.
Real time keeps the distances between the messages, divided by `rate`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from perception.core.config import Checked, Range
from perception.core.errors import NodeError
from perception.core.timing import Stopwatch
from perception.io.bags import BagReader, RawMessage
from perception.nodes.lifecycle_client import POLL_S, nothing, wait_until
from perception.nodes.message_types import header_stamp_ns, message_class

CLOCK_TOPIC, TF_STATIC_TOPIC = "/clock", "/tf_static"
DISCOVERY_SETTLE_S = 0.5
CLOCK_PERIOD_S = 0.01
PUBLISHER_DEPTH = 10
STATUS_DEPTH = 100


@dataclass(frozen=True, kw_only=True)
class PlayerConfig(Checked):
    """How a bag is played."""

    mode: Literal["lockstep", "rate"] = "lockstep"
    """lockstep: wait for the nodes after each image; rate: keep the recorded distances in time."""
    rate: Annotated[float, Range(0.01, 100.0, "x")] = 1.0
    """Speed in the mode `rate`: 2 plays twice as fast as recorded."""
    answer_timeout_s: Annotated[float, Range(0.01, 600.0, "s")] = 30.0
    """In lock-step: how long to wait for the nodes after an image before it is counted as unanswered."""
    max_unanswered_in_a_row: Annotated[int, Range(1, 1_000_000, "images")] = 5
    """In lock-step: give up after so many unanswered images one after the other."""


@dataclass(frozen=True)
class PlaySummary:
    """What was played: messages for each topic, images that some node did not answer in time, wall seconds."""

    num_messages: dict[str, int]
    num_images: int
    num_unanswered: int
    duration_s: float


class Player:
    """Publishes the messages of one bag through `node`, which another thread spins."""

    def __init__(
        self,
        node: Node,
        bag: Path,
        config: PlayerConfig | None = None,
        *,
        image_topic: str,
        topics: Sequence[str] | None = None,
        status_topics: Sequence[str] = (),
        while_waiting: Callable[[], None] = nothing,
    ) -> None:
        """`image_topic` drives the steps · `topics` to play (None: all of the bag) · `status_topics`: std_msgs/String JSON with
        `stamp_ns`, one for each image from each node · `while_waiting` may raise to end the play, such as `NodeProcess.check`."""
        self.config = config or PlayerConfig()
        self._node, self._reader, self._image_topic, self._while_waiting = node, BagReader(bag), image_topic, while_waiting
        self._topics = self._chosen_topics(topics)
        self._clock_ns = 0
        self._clock_publisher = node.create_publisher(Clock, CLOCK_TOPIC, QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
        self._publishers: dict[str, Publisher] = {topic: self._make_publisher(topic) for topic in self._topics}
        self._answers: dict[str, set[int]] = {topic: set() for topic in status_topics}
        self._answered = threading.Condition()
        self._subscriptions = [
            node.create_subscription(String, topic, lambda message, topic=topic: self._on_status(topic, message), STATUS_DEPTH)
            for topic in status_topics
        ]

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def now_ns(self) -> int:
        """The simulated time: what `/clock` said last."""
        return self._clock_ns

    def close(self) -> None:
        """Give publishers and subscriptions back."""
        for publisher in (*self._publishers.values(), self._clock_publisher):
            self._node.destroy_publisher(publisher)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._publishers, self._subscriptions = {}, []
        self._reader.close()

    def wait_for_nodes(self, num_subscribers: Mapping[str, int], timeout_s: float = 20.0) -> None:
        """Until each topic has that many subscribers and each status topic its publisher, so that no message is lost at the start."""

        def missing() -> list[str]:
            short = [
                f"{self._publishers[topic].get_subscription_count()} of {number} subscribers of {topic}"
                for topic, number in num_subscribers.items()
                if self._publishers[topic].get_subscription_count() < number
            ]
            return short + [f"no publisher of {topic}" for topic in self._answers if not self._node.count_publishers(topic)]

        if not wait_until(lambda: not missing(), timeout_s, self._while_waiting):
            raise NodeError(f"after {timeout_s:g} s: {'; '.join(missing())}")
        # Discovery ends on each side by itself: a node may learn of this subscription a little later, and its first answer would be lost.
        time.sleep(DISCOVERY_SETTLE_S)

    def play(self, progress: Callable[[int, int], None] | None = None) -> PlaySummary:
        """Play from begin to end; `progress(images done, images in all)`."""
        watch, counts, num_unanswered, in_a_row = Stopwatch(), Counter[str](), 0, 0
        total = self._reader.topics[self._image_topic].num_messages
        self._prime()
        pacer = _Pacer(self.config.rate) if self.config.mode == "rate" else None
        for message in self._reader.raw_messages(self._topics):
            self._advance_to(message.time_ns, pacer)
            self._publishers[message.topic].publish(bytes(message.data))
            counts[message.topic] += 1
            if message.topic == self._image_topic:
                if pacer is None:
                    in_a_row = 0 if self._wait_for_answers(header_stamp_ns(message.data)) else in_a_row + 1
                    num_unanswered += in_a_row > 0
                    self._check_answers(in_a_row)
                if progress is not None:
                    progress(counts[message.topic], total)
        return PlaySummary(dict(counts), counts[self._image_topic], num_unanswered, watch.lap())

    def _chosen_topics(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        chosen = tuple(wanted) if wanted is not None else tuple(topic for topic in self._reader.topics if topic != CLOCK_TOPIC)
        for topic in (self._image_topic, *chosen):
            self._reader.require(topic)
        return chosen

    def _is_latched(self, topic: str) -> bool:
        """A topic that was recorded once would be lost on all who come later; offering it to them suits the others too."""
        return topic == TF_STATIC_TOPIC or self._reader.topics[topic].num_messages == 1

    def _make_publisher(self, topic: str) -> Publisher:
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=PUBLISHER_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE,  # also met by best-effort subscribers
            durability=DurabilityPolicy.TRANSIENT_LOCAL if self._is_latched(topic) else DurabilityPolicy.VOLATILE,
        )
        return self._node.create_publisher(message_class(self._reader.topics[topic].type_name), topic, profile)

    def _prime(self) -> None:
        """Set the clock and publish the first CameraInfo and the latched messages, as if the camera had been running before."""
        first: dict[str, RawMessage] = {}
        wanted = [topic for topic in self._topics if self._is_latched(topic) or self._reader.topics[topic].type_name.endswith("/CameraInfo")]
        for message in self._reader.raw_messages(self._topics):
            if not self._clock_ns:
                self._set_clock(message.time_ns)
            if message.topic in wanted:
                first.setdefault(message.topic, message)
            if len(first) == len(wanted):
                break
        for topic, message in first.items():
            self._publishers[topic].publish(bytes(message.data))

    def _advance_to(self, time_ns: int, pacer: _Pacer | None) -> None:
        """Move `/clock` to `time_ns` (never backwards); in real time in small steps, as long as the recording took."""
        while pacer is not None and (remaining_s := pacer.remaining_s(time_ns)) > 0:
            self._while_waiting()
            time.sleep(min(remaining_s, CLOCK_PERIOD_S))
            self._set_clock(min(pacer.now_ns(), time_ns))
        self._set_clock(time_ns)

    def _set_clock(self, time_ns: int) -> None:
        self._clock_ns = max(self._clock_ns, time_ns)
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self._clock_ns, 1_000_000_000)
        self._clock_publisher.publish(message)

    def _on_status(self, topic: str, message: String) -> None:
        stamp_ns = int(json.loads(message.data)["stamp_ns"])
        with self._answered:
            self._answers[topic].add(stamp_ns)
            self._answered.notify_all()

    def _wait_for_answers(self, stamp_ns: int) -> bool:
        watch, elapsed_s = Stopwatch(), 0.0
        with self._answered:
            while not all(stamp_ns in stamps for stamps in self._answers.values()):
                self._while_waiting()
                elapsed_s += watch.lap()
                if elapsed_s > self.config.answer_timeout_s:
                    return False
                self._answered.wait(POLL_S)
        return True

    def _check_answers(self, num_in_a_row: int) -> None:
        if num_in_a_row >= self.config.max_unanswered_in_a_row:
            silent = [f"{topic} ({len(stamps)} answers so far)" for topic, stamps in self._answers.items()]
            waited_s = self.config.answer_timeout_s
            raise NodeError(f"{num_in_a_row} images in a row without an answer within {waited_s:g} s on {', '.join(silent)}: see the nodes' logs")


class _Pacer:
    """Wall time against bag time, from the first message on."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._start: tuple[float, int] | None = None

    def remaining_s(self, time_ns: int) -> float:
        """Wall seconds until `time_ns` is due."""
        if self._start is None:
            self._start = (time.monotonic(), time_ns)
        return (time_ns - self.now_ns()) * 1e-9 / self._rate

    def now_ns(self) -> int:
        """Bag time of this moment."""
        assert self._start is not None
        wall_s, first_ns = self._start
        return first_ns + int((time.monotonic() - wall_s) * self._rate * 1e9)
