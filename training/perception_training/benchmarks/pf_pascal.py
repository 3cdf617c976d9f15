"""Semantic correspondence on PF-PASCAL as MEF evaluates it (You et al., ICLR 2025; qq456cvb/3DCorrEnhance `evaluate.py`, `semantic_transfer`).

Both photographs are scaled into a square of 840 px and centred (`letterbox_keypoints`), giving 60 x 60 cells of 14 px. A keypoint's descriptor is
looked for in all pixels of the other image, whose map is enlarged bilinearly and, beyond the outermost centres, continued by its border. A keypoint
is right when it is found nearer than alpha times the edge of the square (not of the object's box). Shares are over all keypoints of a category, then
averaged over categories with the fixed weights of the published program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from perception.core.errors import InputError
from perception.core.types import Grid
from perception.evaluation.metrics.correspondence import KEYPOINT_ALPHAS, pck, pixel_error, weighted_mean
from perception.ops.pixel_search import nearest_pixels
from perception.ops.sampling import sample_map
from perception_training.data.readers.pf_pascal import CATEGORIES

SIZE_PX = 840
GRID = Grid((7.0, 7.0), (14.0, 14.0))
"""Of the published program: cell centres at 7, 21, ..., that is half a pixel beyond where they lie with pixel centres at integers."""
WEIGHTS: dict[str, int] = dict(zip(CATEGORIES, (15, 30, 10, 6, 8, 32, 19, 27, 13, 3, 8, 24, 9, 27, 12, 7, 1, 13, 20, 15), strict=True))
"""Of the categories: numbers of pairs."""


def transfer_keypoints(
    source: Tensor, target: Tensor, keypoints_px: Tensor | NDArray, grid: Grid = GRID, size_px: int = SIZE_PX
) -> NDArray[np.int64]:
    """Where keypoints (n, 2) as (x, y) of the source image are found in the target image: pixels (n, 2) of the square of size_px.

    source, target (dim, rows, cols): descriptor maps of both squares with cells on `grid`, as the network gives them (not normalised).
    """
    queries = sample_map(source[None], keypoints_px[None], grid, normalize=True)[0]
    found: NDArray[np.int64] = nearest_pixels(queries, target, grid, size_px, size_px).cpu().numpy()
    return found


def keypoint_errors(source: Tensor, target: Tensor, keypoints: NDArray, grid: Grid = GRID, size_px: int = SIZE_PX) -> NDArray[np.float64]:
    """Errors (m,) in px of the keypoints that are visible in both images; keypoints (2, n, 3) of both as (x, y, visible) in px of the squares."""
    keypoints = np.asarray(keypoints)
    if keypoints.ndim != 3 or keypoints.shape[0] != 2 or keypoints.shape[2] != 3:
        raise InputError(f"keypoints have shape {keypoints.shape}: must be (2, n, 3), those of source and target as (x, y, visible)")
    common = (keypoints[..., 2] > 0).all(axis=0)
    found = transfer_keypoints(source, target, keypoints[0, common, :2], grid, size_px)
    return pixel_error(found, keypoints[1, common, :2])


@dataclass(frozen=True, eq=False)
class PfPascalScore:
    """PCK in [0, 1], higher is better. by_category: category to (alphas,), NaN for one without common keypoints · weighted (alphas,): their mean."""

    by_category: dict[str, NDArray[np.float64]]
    weighted: NDArray[np.float64]
    alphas: tuple[float, ...] = KEYPOINT_ALPHAS


def score_categories(errors_px: Mapping[str, NDArray], size_px: int = SIZE_PX) -> PfPascalScore:
    """From the errors of all pairs of each category; only the categories given take part in the mean."""
    unknown = sorted(set(errors_px) - set(WEIGHTS))
    if unknown or not errors_px:
        raise InputError(f"categories {unknown or 'none'}: must be at least one of {', '.join(WEIGHTS)}")
    by_category = {category: pck(errors, size_px) for category, errors in errors_px.items()}
    return PfPascalScore(by_category, weighted_mean(np.stack(list(by_category.values())), [WEIGHTS[category] for category in by_category]))
