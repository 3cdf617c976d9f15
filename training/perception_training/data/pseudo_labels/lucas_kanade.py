"""The tracker without weights: OpenCV's pyramidal Lucas–Kanade (Bouguet 2000) with a forward–backward check (Kalal et al., ICPR 2010).

A point is followed from frame to frame. It is lost when the way back does not end where it began, or when its surroundings no longer look as
they did in its query's frame: at an occlusion the way back alone is no proof, since both ways follow what lies in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception_training.data.pseudo_labels.chaining import chain
from perception_training.data.pseudo_labels.tracker import Frames, Image, Report, no_report
from perception_training.data.sample import Tracks

_MIN_CONTRAST = 1.0
"""Standard deviation in grey levels below which a patch looks like any other."""


@dataclass(frozen=True, kw_only=True)
class LucasKanadeConfig(Checked):
    """Pyramidal Lucas–Kanade."""

    window_px: Annotated[int, Range(5, 101, "px")] = 21
    """Side of the window that is matched, in each level."""
    levels: Annotated[int, Range(0, 8)] = 3
    """Pyramid levels above the image; each doubles the motion that can be followed."""
    max_iterations: Annotated[int, Range(1)] = 30
    """Iterations of one level at most."""
    epsilon_px: Annotated[float, Range(0.0, 1.0, "px")] = 0.01
    """An iteration that moves a point by less is the last one."""
    min_eigenvalue: Annotated[float, Range(0.0)] = 1e-4
    """Windows with less texture are not followed."""
    max_return_error_px: Annotated[float, Range(0.0, None, "px")] = 1.0
    """Largest distance between a point and where the way back leads."""
    patch_px: Annotated[int, Range(3, 101, "px")] = 15
    """Side of the patch that is compared with the query's frame."""
    min_correlation: Annotated[float, Range(-1.0, 1.0)] = 0.5
    """Smallest normalised correlation with the patch in the query's frame; -1 switches the comparison off."""


class LucasKanade:
    """`ClipTracker` by optical flow between neighbouring frames."""

    Config: ClassVar[type[Checked]] = LucasKanadeConfig
    weights_sha256 = ""

    def __init__(self, config: LucasKanadeConfig) -> None:
        self._config = config
        self.settings: dict[str, Any] = to_mapping(config)

    def track(self, images: Frames, queries: NDArray, report: Report = no_report) -> Tracks:
        """See `ClipTracker.track`."""
        return chain(images, queries, (_Follower(self._config), _Follower(self._config)), report)


class _Follower:
    def __init__(self, config: LucasKanadeConfig) -> None:
        self._config = config
        self._patches: dict[int, NDArray[np.float32]] = {}
        self._last: tuple[Image, NDArray[np.uint8]] | None = None

    def start(self, image: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]) -> None:
        patches = self._looks(self._grey(image), points_px)
        self._patches.update(zip(points.tolist(), patches, strict=True))

    def follow(
        self, before: Image, after: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        first, second = self._grey(before), self._grey(after)
        found_px, forwards = self._flow(first, second, points_px)
        return_px, backwards = self._flow(second, first, found_px)
        error = np.linalg.norm(return_px - points_px, axis=1)
        found = forwards & backwards & (error <= self._config.max_return_error_px)
        if self._config.min_correlation > -1:
            looks = self._looks(second, found_px)
            known = np.stack([self._patches[point] for point in points.tolist()])
            found &= (looks * known).mean(axis=1) >= self._config.min_correlation
        return found_px, found

    def _flow(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], points_px: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        config = self._config
        guess = np.zeros((len(points_px), 1, 2), np.float32)
        found_px, status, _ = cv2.calcOpticalFlowPyrLK(
            first,
            second,
            points_px[:, None],
            guess,
            winSize=(config.window_px, config.window_px),
            maxLevel=config.levels,
            criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, config.max_iterations, config.epsilon_px),
            minEigThreshold=config.min_eigenvalue,
        )
        return np.asarray(found_px, np.float32)[:, 0], np.asarray(status)[:, 0] > 0

    def _grey(self, image: Image) -> NDArray[np.uint8]:
        """Each frame is asked for as the later of one pair and the earlier of the next."""
        if self._last is None or self._last[0] is not image:
            self._last = (image, np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))
        return self._last[1]

    def _looks(self, grey: NDArray[np.uint8], points_px: NDArray[np.float32]) -> NDArray[np.float32]:
        """Patches around points (n, patch²), of mean 0 and deviation 1; the image's border is repeated."""
        half = (self._config.patch_px - 1) / 2
        offsets = np.arange(self._config.patch_px, dtype=np.float32) - np.float32(half)
        x = points_px[:, 0, None, None] + offsets[None, None, :]
        y = points_px[:, 1, None, None] + offsets[None, :, None]
        x, y = (np.ascontiguousarray(np.broadcast_to(value, (len(points_px), len(offsets), len(offsets)))) for value in (x, y))
        rows = cv2.remap(grey, x.reshape(len(points_px), -1), y.reshape(len(points_px), -1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        patches = rows.astype(np.float32)
        patches -= patches.mean(axis=1, keepdims=True)
        return patches / np.maximum(patches.std(axis=1, keepdims=True), _MIN_CONTRAST)
