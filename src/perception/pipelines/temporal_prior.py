"""Where an object should be now, from where it was: constant velocity in the camera frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.geometry import se3


class TemporalPrior:
    """The last two poses of one object in one stream."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, NDArray[np.float64]]] = []

    def update(self, time_ns: int, camera_from_object: NDArray[np.float64]) -> None:
        """A pose was found. Going back in time starts anew."""
        if self._seen and time_ns <= self._seen[-1][0]:
            self._seen.clear()
        self._seen = [*self._seen[-1:], (time_ns, camera_from_object)]

    def predict(self, time_ns: int, max_age_s: float) -> NDArray[np.float64] | None:
        """Pose (4, 4) expected at a time, or None when the last one is too old or lies in the future."""
        if not self._seen:
            return None
        last_ns, last = self._seen[-1]
        age_s = (time_ns - last_ns) * 1e-9
        if not 0 <= age_s <= max_age_s:
            return None
        if len(self._seen) < 2:
            return last
        before_ns, before = self._seen[0]
        step_s = (last_ns - before_ns) * 1e-9
        if step_s > max_age_s:
            return last
        # Half of the extrapolated motion: a moving camera is followed, jitter between two poses is not thrown forward.
        motion = se3.log(last @ np.linalg.inv(before)) * (0.5 * age_s / step_s)
        return se3.exp(motion) @ last
