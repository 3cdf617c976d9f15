"""Running figures of a stream: latency quantiles, rate and counts. The caller hands in the times; nothing here reads a clock but `Stopwatch`."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque

import numpy as np


class Stopwatch:
    """Seconds since construction or the last `lap`, on the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap; starts the next one."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        return elapsed


class StreamStatistics:
    """Latency, rate and counters of one stream; safe to call from several threads."""

    def __init__(self, window: int = 200) -> None:
        self._lock = threading.Lock()
        self._latency_s: deque[float] = deque(maxlen=window)
        self._finished_s: deque[float] = deque(maxlen=window)
        self._counts: Counter[str] = Counter()

    def finished(self, latency_s: float, now_s: float) -> None:
        """One item went through: how long it took and when it was done (monotonic seconds)."""
        with self._lock:
            self._latency_s.append(latency_s)
            self._finished_s.append(now_s)
            self._counts["processed"] += 1

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a named counter, such as `dropped` or `refused`."""
        with self._lock:
            self._counts[name] += amount

    def counts(self) -> dict[str, int]:
        """All counters so far."""
        with self._lock:
            return dict(self._counts)

    def latency_s(self, quantile: float) -> float:
        """Quantile of the latency over the window in seconds; NaN when nothing went through."""
        with self._lock:
            return float(np.quantile(self._latency_s, quantile)) if self._latency_s else float("nan")

    def rate_hz(self) -> float:
        """Items per second over the window; 0 with fewer than two items."""
        with self._lock:
            if len(self._finished_s) < 2 or self._finished_s[-1] <= self._finished_s[0]:
                return 0.0
            return (len(self._finished_s) - 1) / (self._finished_s[-1] - self._finished_s[0])
