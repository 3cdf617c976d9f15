"""The tracker without weights: OpenCV's pyramidal Lucas–Kanade (Bouguet 2000) with a forward–backward check (Kalal et al., ICPR 2010).

A point is followed from frame to frame and then aligned with its query's frame, so that errors do not add up. It is lost when the way back does
not end where it began, or when its surroundings no longer look as they did in its query's frame: at an occlusion the way back alone is no proof,
since both ways follow what lies in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception_training.data.pseudo_labels.affine_refinement import AffineTemplates
from perception_training.data.pseudo_labels.chaining import chain
from perception_training.data.pseudo_labels.tracker import Frames, Image, Report, no_report
from perception_training.data.sample import Tracks


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
    patch_px: Annotated[int, Range(5, 101, "px")] = 15
    """Side of the patch that is compared with the query's frame."""
    min_correlation: Annotated[float, Range(-1.0, 1.0)] = 0.6
    """Smallest normalised correlation with the patch in the query's frame; -1 switches the comparison off."""
    refine_iterations: Annotated[int, Range(0, 100)] = 10
    """Steps of the affine alignment with the query's frame; 0 switches it off."""
    max_refinement_px: Annotated[float, Range(0.0, None, "px")] = 3.0
    """The alignment moves a point by this at most."""


class LucasKanade:
    """`ClipTracker` by optical flow between neighbouring frames."""

    Config: ClassVar[type[Checked]] = LucasKanadeConfig
    weights_sha256 = ""

    def __init__(self, config: LucasKanadeConfig) -> None:
        self._config = config
        self.settings: dict[str, Any] = to_mapping(config)

    def track(self, images: Frames, queries: NDArray, report: Report = no_report) -> Tracks:
        """See `ClipTracker.track`."""
        followers = (_Follower(self._config, len(queries)), _Follower(self._config, len(queries)))
        return chain(images, queries, followers, report)


class _Follower:
    def __init__(self, config: LucasKanadeConfig, num_points: int) -> None:
        self._config = config
        self._templates = AffineTemplates(num_points, config.patch_px)
        self._last: tuple[Image, NDArray[np.uint8]] | None = None

    def start(self, image: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]) -> None:
        self._templates.start(self._grey(image).astype(np.float32), points, points_px)

    def follow(
        self, before: Image, after: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        first, second = self._grey(before), self._grey(after)
        found_px, forwards = self._flow(first, second, points_px)
        return_px, backwards = self._flow(second, first, found_px)
        error = np.linalg.norm(return_px - points_px, axis=1)
        found = forwards & backwards & (error <= self._config.max_return_error_px)
        indices = np.flatnonzero(found)
        if len(indices) and (self._config.min_correlation > -1 or self._config.refine_iterations):
            found_px[indices], correlation = self._templates.refine(
                second.astype(np.float32), points[indices], found_px[indices], self._config.max_refinement_px, self._config.refine_iterations
            )
            found[indices] = correlation >= self._config.min_correlation
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
