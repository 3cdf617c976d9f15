"""Scores of predicted depth after an alignment, as CUT3R (Wang et al., CVPR 2025) and Pi3 score videos and single images.

A video is aligned and scored as one array (frames, height, width). Sources: CUT3R `eval/video_depth/tools.py`, yyfz/Pi3, branch evaluation,
`utils/depth.py`, whose numbers are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from perception.core.errors import InputError

DepthAlignment = Literal["metric", "median", "scale", "least_squares", "least_absolute", "adam", "adam_fast"]
"""What of the prediction is fitted to the truth first, over all valid pixels at once.

metric: nothing · median: scale, ratio of the medians · scale: scale of least absolute differences, by ten steps of Weiszfeld · least_squares,
least_absolute: scale and shift, the second by SciPy's minimiser from the ratio of the medians · adam: the same by at most 1,000 steps of Adam at a
rate of 1e-4, which have NOT converged: they move scale and shift by 0.1 at most, and published numbers of "scale & shift" are of this · adam_fast: at
1e-3. CUT3R calls them metric, (default), scale, lstsq, lad, lad2. Beware: in Pi3's configuration of single images `median-scale` selects "scale"
and `scale` selects "median".
"""

RATIOS: tuple[float, ...] = (1.25, 1.25**2, 1.25**3)
_LEARNING_RATES = {"adam": 1e-4, "adam_fast": 1e-3}
_NAN = float("nan")
_ADAM_STEPS, _WEISZFELD_STEPS = 1000, 10


class DepthScores(NamedTuple):
    """NaN where no pixel is valid.

    abs_rel: mean of |d - true| / true · sq_rel: mean of (d - true)^2 / true, in the unit of depth · rmse: in the unit of depth · log_rmse: of
    natural logarithms, depths below 1e-5 count as that; all lower is better, 0 at best · within: share of the pixels whose ratio to the truth, or its
    inverse where that is larger, lies below (strictly) each of RATIOS; in [0, 1], higher is better · num_pixels: valid ones, the weight in averages ·
    scale, shift: of the alignment.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    log_rmse: float
    within: tuple[float, ...]
    num_pixels: int
    scale: float
    shift: float


_NO_SCORES = DepthScores(_NAN, _NAN, _NAN, _NAN, (_NAN,) * len(RATIOS), 0, _NAN, _NAN)


def depth_scores(
    depth: object,
    true_depth: object,
    alignment: DepthAlignment = "scale",
    *,
    max_depth: float | None = None,
    clip_above: float | None = None,
) -> DepthScores:
    """Scores of one image or video; depth and true_depth are arrays or tensors of equal shape, computed in their dtype (float32 as published).

    Pixels count whose true depth is above 0 and below max_depth. clip_above: larger aligned depths are taken as this. Published: Sintel 70 and 70,
    Bonn 70 and none, KITTI and NYUv2 none. Raises InputError where shapes differ or a predicted depth is not finite at a pixel that counts.
    """
    predicted, true = (torch.as_tensor(value) for value in (depth, true_depth))
    if predicted.shape != true.shape:
        raise InputError(f"depth of shape {tuple(predicted.shape)} and true depth {tuple(true.shape)}: must be equal; resize the prediction first")
    valid = true > 0 if max_depth is None else (true > 0) & (true < max_depth)
    predicted, true = predicted[valid], true[valid]
    if not torch.isfinite(predicted).all():
        raise InputError("depth: every prediction at a pixel with true depth must be finite; say 0 where there is none")
    if not len(true):
        return _NO_SCORES
    scale, shift = align_depth(predicted, true, alignment)
    aligned = scale * predicted + shift if alignment != "metric" else predicted
    if clip_above is not None:
        aligned = aligned.clamp(max=clip_above)
    difference = aligned - true
    positive = aligned.clamp(min=1e-5)
    ratio = torch.maximum(positive / true, true / positive)
    return DepthScores(
        float((difference.abs() / true).mean()),
        float((difference**2 / true).mean()),
        float((difference**2).mean().sqrt()),
        float(((positive.log() - true.log()) ** 2).mean().sqrt()),
        tuple(float((ratio < limit).to(ratio.dtype).mean()) for limit in RATIOS),
        len(true),
        float(scale),
        float(shift),
    )


def align_depth(predicted: Tensor, true: Tensor, alignment: DepthAlignment) -> tuple[float, float]:
    """Scale and shift of predicted depths (n,) towards true ones (n,), n >= 1; see DepthAlignment."""
    if alignment == "metric":
        return 1.0, 0.0
    if alignment == "scale":
        return float(_weiszfeld_scale(predicted, true)), 0.0
    # On an even number of pixels torch takes the lower of the two middle ones.
    ratio = true.median() / predicted.median()
    if alignment == "median":
        return float(ratio), 0.0
    if alignment == "least_squares":
        columns = torch.stack([predicted, torch.ones_like(predicted)], dim=-1).cpu().numpy()
        scale, shift = np.linalg.lstsq(columns, true.cpu().numpy(), rcond=None)[0]
        return float(scale), float(shift)
    if alignment == "least_absolute":
        return _least_absolute(predicted.cpu().numpy(), true.cpu().numpy(), float(ratio))
    if alignment in _LEARNING_RATES:
        return _adam(predicted, true, float(ratio), _LEARNING_RATES[alignment])
    known = "metric, median, scale, least_squares, least_absolute, adam, adam_fast"
    raise InputError(f"alignment {alignment!r}: must be one of {known}")


def _weiszfeld_scale(predicted: Tensor, true: Tensor) -> Tensor:
    """Scale () with about the least sum of absolute differences: ten steps from the ratio of means, and 0.001 at least, as published.

    `geometry.robust_scale` finds the exact one.
    """
    scale = true.mean() / predicted.mean()
    for _ in range(_WEISZFELD_STEPS):
        weight = 1 / ((scale * predicted - true).abs() + 1e-8)
        scale = (weight * predicted * true).sum() / (weight * predicted**2).sum()
    return scale.clamp(min=1e-3)


def _least_absolute(predicted: np.ndarray, true: np.ndarray, scale: float) -> tuple[float, float]:
    found = minimize(lambda line: np.abs(line[0] * predicted + line[1] - true).sum(), [scale, 0.0]).x
    return float(found[0]), float(found[1])


def _adam(predicted: Tensor, true: Tensor, scale: float, learning_rate: float) -> tuple[float, float]:
    """Scale and shift after steps of Adam on the sum of absolute differences of depths (n,), whose gradient is written out: it sums signs.

    Stops early once the sum changes by less than 1e-6 in a step.
    """
    line = torch.tensor([scale, 0.0], dtype=predicted.dtype, device=predicted.device)
    line.grad = torch.zeros_like(line)
    optimiser = torch.optim.Adam([line], lr=learning_rate, foreach=False)
    last = None
    for _ in range(_ADAM_STEPS):
        difference = line[0] * predicted + line[1] - true
        sign = difference.sign()
        line.grad[0], line.grad[1] = (sign * predicted).sum(), sign.sum()
        optimiser.step()
        loss = float(difference.abs().sum())
        if last is not None and abs(last - loss) < 1e-6:
            break
        last = loss
    return float(line[0]), float(line[1])


def average_depth_scores(scores: Sequence[DepthScores]) -> DepthScores:
    """Mean over sequences, weighted with their valid pixels, as published; those without any do not count. NaN for none. Scale and shift: NaN."""
    counted = [score for score in scores if score.num_pixels]
    total = sum(score.num_pixels for score in counted)
    if not total:
        return _NO_SCORES
    rows = np.array([(*score[:4], *score.within) for score in counted])
    mean = np.average(rows, axis=0, weights=[score.num_pixels for score in counted]).tolist()
    abs_rel, sq_rel, rmse, log_rmse, *within = mean
    return DepthScores(abs_rel, sq_rel, rmse, log_rmse, tuple(within), total, _NAN, _NAN)
