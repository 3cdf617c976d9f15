"""What earlier frames say of the next one: where objects should be now (constant velocity in the camera frame), and which were missing."""

from __future__ import annotations

from collections.abc import Iterable

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
        # Half of the extrapolated motion, over one step at most: a moving camera is followed, jitter between two poses is not thrown forward.
        motion = se3.log(last @ np.linalg.inv(before)) * (0.5 * min(age_s / step_s, 1.0))
        return se3.exp(motion) @ last


class Sightings:
    """Of all objects in all streams: where each was seen last, and when it was searched for in vain. Streams are told apart by their `source`."""

    def __init__(self) -> None:
        self._priors: dict[tuple[str, str], TemporalPrior] = {}
        self._missed_ns: dict[tuple[str, str], int] = {}
        self._seen_last: dict[str, frozenset[str]] = {}

    def predict(self, name: str, source: str, time_ns: int, max_age_s: float) -> NDArray[np.float64] | None:
        """As `TemporalPrior.predict`; None for an object that was never seen in the stream."""
        prior = self._priors.get((name, source))
        return None if prior is None else prior.predict(time_ns, max_age_s)

    def found(self, name: str, source: str, time_ns: int, camera_from_object: NDArray[np.float64]) -> None:
        """An object was found."""
        self._priors.setdefault((name, source), TemporalPrior()).update(time_ns, camera_from_object)
        self._missed_ns.pop((name, source), None)

    def missed(self, name: str, source: str, time_ns: int) -> None:
        """All of a frame was searched for an object in vain."""
        self._missed_ns[name, source] = time_ns

    def end_of_frame(self, source: str, names: Iterable[str]) -> None:
        """All objects were dealt with; these were found."""
        self._seen_last[source] = frozenset(names)

    def searched_s_ago(self, name: str, source: str, time_ns: int) -> float | None:
        """How long ago an object was searched for in vain, while another one is followed; None where either is not so."""
        missed_ns = self._missed_ns.get((name, source))
        if missed_ns is None or missed_ns > time_ns or not self._seen_last.get(source, frozenset()) - {name}:
            return None
        return (time_ns - missed_ns) * 1e-9

    def forget(self, name: str) -> None:
        """All that is known of one object."""
        for known in (self._priors, self._missed_ns):
            for key in [key for key in known if key[0] == name]:
                del known[key]

    def clear(self) -> None:
        """Forget everything."""
        self._priors.clear()
        self._missed_ns.clear()
        self._seen_last.clear()
