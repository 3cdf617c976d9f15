"""The latest-item slot: newest wins, drops are counted, errors do not end it, stop joins."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("rclpy")

from perception.nodes.worker import LatestWorker


class Recorder:
    """Works on numbers when it is let go."""

    def __init__(self) -> None:
        self.go, self.started, self.done, self.num_dropped = threading.Event(), threading.Event(), [], 0  # type: ignore[var-annotated]
        self.errors: list[Exception] = []
        self.worker: LatestWorker[int] = LatestWorker(self.work, on_drop=self.drop, on_error=self.errors.append)

    def work(self, item: int) -> None:
        self.started.set()
        assert self.go.wait(5.0)
        if item < 0:
            raise ValueError(f"{item} is negative")
        self.done.append(item)

    def drop(self) -> None:
        self.num_dropped += 1


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 5.0
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_newest_item_wins() -> None:
    recorder = Recorder()
    recorder.worker.put(0)
    assert recorder.started.wait(5.0)
    for item in range(1, 10):
        recorder.worker.put(item)
    recorder.go.set()
    wait_for(lambda: len(recorder.done) == 2)
    assert recorder.done == [0, 9]
    assert recorder.num_dropped == 8
    assert recorder.worker.stop()


def test_an_error_is_handed_on_and_the_next_item_worked_on() -> None:
    recorder = Recorder()
    recorder.go.set()
    recorder.worker.put(-1)
    wait_for(lambda: recorder.errors)
    recorder.worker.put(3)
    wait_for(lambda: recorder.done == [3])
    assert str(recorder.errors[0]) == "-1 is negative"
    assert recorder.worker.stop()


def test_stop_joins_forgets_the_waiting_item_and_takes_no_more() -> None:
    recorder = Recorder()
    recorder.worker.put(1)
    assert recorder.started.wait(5.0)
    recorder.worker.put(2)
    assert not recorder.worker.stop(timeout_s=0.05), "the item in work has not ended"
    recorder.go.set()
    assert recorder.worker.stop()
    recorder.worker.put(3)
    assert recorder.done == [1]
