"""Newest frame wins: one slot for the latest item and one thread that works on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class LatestWorker(Generic[ItemT]):
    """Hands the newest item to `work` in a thread of its own; an item that waits when the next one comes is dropped.

    An exception of `work` goes to `on_error` and the thread goes on with the next item.
    """

    def __init__(
        self, work: Callable[[ItemT], None], *, on_drop: Callable[[], None], on_error: Callable[[Exception], None], name: str = "worker"
    ) -> None:
        self._work, self._on_drop, self._on_error = work, on_drop, on_error
        self._condition = threading.Condition()
        self._item: ItemT | None = None
        self._stopping = False
        # A daemon, so that a main thread that ends by an exception is not held up; `stop` joins it in every orderly end.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: ItemT) -> None:
        """Make `item` the next to be worked on. Never waits."""
        with self._condition:
            if self._stopping:
                return
            replaced = self._item is not None
            self._item = item
            self._condition.notify()
        if replaced:
            self._on_drop()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Finish the item in work, forget the waiting one and join the thread. False when it did not end in time."""
        with self._condition:
            self._stopping, self._item = True, None
            self._condition.notify()
        if threading.current_thread() is self._thread:
            return False
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._item is not None)
                if self._stopping:
                    return
                item, self._item = self._item, None
            assert item is not None
            try:
                self._work(item)
            except Exception as error:
                if not self._stopping:  # a context that is shut down in mid-step is no fault of the step
                    self._on_error(error)
            del item
