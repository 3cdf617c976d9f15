"""Average recall of the BOP benchmark for the localization of objects of which it is known how many there are (BOP 2019 and later).

For each image and object the estimates are matched to the true poses, best score first, each with the nearest one that is still free and nearer than
the threshold. Recall is the share of the targets that found an estimate, over all images and objects together; it is averaged over thresholds.
Sources: Hodan et al., BOP Challenge 2020 (ECCV Workshops 2020); bop_toolkit `pose_matching`, `score`, `eval_bop19_pose`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

ERROR_THRESHOLDS: tuple[float, ...] = tuple(np.arange(0.05, 0.51, 0.05).tolist())
"""For VSD, and for MSSD as shares of the diameter."""
PIXEL_THRESHOLDS: tuple[float, ...] = tuple(np.arange(5.0, 51.0, 5.0).tolist())
"""For MSPD, pixels of an image 640 px wide."""
WIDTH_PX = 640


@dataclass(frozen=True, eq=False)
class ObjectErrors:
    """Errors of all estimates (E) of one object in one image against all its true poses (G) there; either may be none.

    scores (E,): higher is surer; only the estimates that count, that is the best ones up to the number of targets · targets (G,) bool: true poses
    that have to be found · vsd (E, G, taus) · mssd_m (E, G) · mspd_px (E, G), of the image as it is; NaN or inf where an error is unknown: no match
    · diameter_m of the model · image_width.
    """

    scores: NDArray
    targets: NDArray[np.bool_]
    vsd: NDArray
    mssd_m: NDArray
    mspd_px: NDArray
    diameter_m: float
    image_width: int

    def __post_init__(self) -> None:
        pairs = (len(self.scores), len(self.targets))
        shapes = {"vsd": np.shape(self.vsd)[:2], "mssd_m": np.shape(self.mssd_m), "mspd_px": np.shape(self.mspd_px)}
        for name, shape in shapes.items():
            if shape != pairs:
                raise InputError(f"ObjectErrors.{name} is for {shape} estimates and true poses; must be {pairs}")
        if not (self.diameter_m > 0 and self.image_width > 0):
            raise InputError(f"ObjectErrors: diameter {self.diameter_m} m, image width {self.image_width} px; both must be positive")


@dataclass(frozen=True, eq=False)
class AverageRecall:
    """Recall in [0, 1], higher is better: vsd_recall (taus, thresholds), mssd_recall and mspd_recall (thresholds,). All 0 without targets."""

    vsd_recall: NDArray[np.float64]
    mssd_recall: NDArray[np.float64]
    mspd_recall: NDArray[np.float64]
    num_targets: int

    @property
    def vsd(self) -> float:
        return float(self.vsd_recall.mean())

    @property
    def mssd(self) -> float:
        return float(self.mssd_recall.mean())

    @property
    def mspd(self) -> float:
        return float(self.mspd_recall.mean())

    @property
    def mean(self) -> float:
        """AR, the figure of the challenge's tables."""
        return (self.vsd + self.mssd + self.mspd) / 3.0


def average_recall(errors: Iterable[ObjectErrors]) -> AverageRecall:
    """Over all images and objects of a set; `errors` is gone through once and not kept."""
    found: list[NDArray] | None = None
    num_targets = 0
    for item in errors:
        num_targets += int(item.targets.sum())
        hits = [
            num_found(item.scores, np.asarray(item.vsd), item.targets, ERROR_THRESHOLDS),
            num_found(item.scores, np.asarray(item.mssd_m)[..., None] / item.diameter_m, item.targets, ERROR_THRESHOLDS),
            num_found(item.scores, np.asarray(item.mspd_px)[..., None] * (WIDTH_PX / item.image_width), item.targets, PIXEL_THRESHOLDS),
        ]
        found = hits if found is None else [total + more for total, more in zip(found, hits, strict=True)]
    if found is None:
        found = [np.zeros((len(ERROR_THRESHOLDS),) * 2), np.zeros((1, len(ERROR_THRESHOLDS))), np.zeros((1, len(PIXEL_THRESHOLDS)))]
    vsd, mssd, mspd = (hits / max(num_targets, 1) for hits in found)
    return AverageRecall(vsd, mssd[0], mspd[0], num_targets)


def num_found(scores: NDArray, errors: NDArray, targets: NDArray[np.bool_], thresholds: tuple[float, ...]) -> NDArray[np.int64]:
    """Number of targets (kinds, thresholds) that find an estimate nearer (strictly) than each threshold.

    scores (E,) · errors (E, G, kinds): each kind is matched by itself, and so is each threshold · targets (G,) bool. At equal scores the first
    estimate chooses first, at equal errors it takes the first true pose.
    """
    limits = np.asarray(thresholds, np.float64)
    num_estimates, num_true, num_kinds = errors.shape
    taken = np.zeros((num_true, num_kinds, len(limits)), np.bool_)
    if not num_estimates or not num_true:
        return taken.sum(axis=0)
    known = np.where(np.isnan(errors) | ~targets[:, None], np.inf, errors)
    for estimate in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        free = np.where(taken, np.inf, known[estimate][..., None])
        nearest = free.argmin(axis=0)[None]
        close = np.take_along_axis(free, nearest, axis=0) < limits
        np.put_along_axis(taken, nearest, close | np.take_along_axis(taken, nearest, axis=0), axis=0)
    return taken.sum(axis=0)


def most_visible(visible_share: NDArray, num_targets: int) -> NDArray[np.bool_]:
    """Which of an object's true poses (G,) in an image are targets: the `num_targets` most visible ones (`inst_count` of the list of targets),
    the first ones where equal."""
    chosen = np.zeros(len(visible_share), np.bool_)
    chosen[np.argsort(-np.asarray(visible_share, np.float64), kind="stable")[:num_targets]] = True
    return chosen
