"""How well pixels of one image were found in another: dense (APE, PCDP) and at keypoints (PCK). Points are (n, 2) as (x, y).

Sources: APE and PCDP: You et al. (MEF), ICLR 2025, section 3; PCK: Yang & Ramanan, TPAMI 2013, with thresholds as the MEF program has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

DENSE_THRESHOLDS: tuple[float, ...] = (0.05, 0.10, 0.20)
"""Of PCDP, as shares of the shortest edge of the image."""
KEYPOINT_ALPHAS: tuple[float, ...] = (0.05, 0.10, 0.15)
"""Of PCK, as shares of the reference length (MEF: the edge of the square image, not that of the object's box)."""


def pixel_error(predicted_px: NDArray, true_px: NDArray) -> NDArray[np.float64]:
    """Distances (n,) in pixels, lower is better."""
    predicted, true = np.asarray(predicted_px, np.float64), np.asarray(true_px, np.float64)
    if predicted.shape != true.shape or predicted.shape[-1:] != (2,):
        raise InputError(f"predicted points {predicted.shape} and true points {true.shape}: must be of equal shape (n, 2)")
    return np.linalg.norm(predicted - true, axis=-1)


@dataclass(frozen=True, eq=False)
class DenseScore:
    """APE and PCDP over any number of points and pairs of images, each point with the same weight; scores add up: `score + score`.

    num_points: points counted · sum_error: of their errors as shares of the shortest edge · num_within (thresholds,): points below each of
    DENSE_THRESHOLDS. A point without a prediction (NaN, inf) makes APE infinite and counts as a miss in PCDP.
    """

    num_points: int = 0
    sum_error: float = 0.0
    num_within: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(DENSE_THRESHOLDS), np.int64))

    @classmethod
    def of_pair(cls, predicted_px: NDArray, true_px: NDArray, width: int, height: int) -> DenseScore:
        """Of one pair; width and height of the second image, in which the points (n, 2) lie."""
        if min(width, height) < 1:
            raise InputError(f"image of {width} x {height} px: must have at least one pixel")
        error = pixel_error(predicted_px, true_px) / min(width, height)
        error = np.where(np.isnan(error), np.inf, error)
        return cls(error.size, float(error.sum()), (error[:, None] < np.asarray(DENSE_THRESHOLDS)).sum(axis=0))

    def __add__(self, other: DenseScore) -> DenseScore:
        return DenseScore(self.num_points + other.num_points, self.sum_error + other.sum_error, self.num_within + other.num_within)

    @property
    def ape_percent(self) -> float:
        """Average pixel error, percent of the shortest edge, lower is better; NaN without points."""
        return 100.0 * self.sum_error / self.num_points if self.num_points else float("nan")

    @property
    def pcdp_percent(self) -> NDArray[np.float64]:
        """Percentage of correct dense points (strictly nearer) at each of DENSE_THRESHOLDS, higher is better; NaN without points."""
        return 100.0 * self.num_within / self.num_points if self.num_points else np.full(len(self.num_within), np.nan)


def pck(error_px: NDArray, reference_px: NDArray | float, alphas: Sequence[float] = KEYPOINT_ALPHAS) -> NDArray[np.float64]:
    """Share of keypoints (n,) nearer (strictly) than alpha times the reference length, in [0, 1], higher is better; one for each alpha.

    reference_px: one length for all or one for each keypoint. NaN without keypoints; a keypoint without a prediction (NaN, inf) is a miss.
    """
    error = np.asarray(error_px, np.float64).reshape(-1)
    if not error.size:
        return np.full(len(alphas), np.nan)
    return np.array([(error < alpha * np.asarray(reference_px, np.float64)).mean() for alpha in alphas])


def weighted_mean(values: NDArray, weights: Sequence[float] | NDArray) -> NDArray[np.float64]:
    """Mean over the first axis (categories), each with its weight; NaN where a category is NaN or all weights are 0."""
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if weights.shape != values.shape[:1]:
        raise InputError(f"{weights.shape} weights for {values.shape[:1]} categories: must be as many")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.tensordot(weights, values, axes=1) / weights.sum(), np.float64)
