"""Against drift: points are aligned with the patch around them in their query's frame, under an affine warp, gain and offset.

Inverse compositional Gauss–Newton (Baker and Matthews, IJCV 2004), all points at once. Following a window that turns or grows from frame to frame
by a shift alone adds up to pixels within a few frames; the affine warp is what Shi and Tomasi (CVPR 1994) check features with.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_MIN_CONTRAST = 1.0
"""Standard deviation in grey levels below which a patch looks like any other."""
_DAMPING = 1e-3
"""Share of the mean diagonal added to the normal equations: directions without texture keep their last value."""
_DONE_PX = 0.01
_MAX_STRETCH = 4.0


class AffineTemplates:
    """Patches of num_points points in their query's frame, and how each is warped now.

    patch_px: side of the patches. Index arrays `points` (n,) choose points; positions are (n, 2) pixels; images are grey
    levels (height, width) float32, which keeps fractions of a pixel exact.
    """

    def __init__(self, num_points: int, patch_px: int) -> None:
        half = (patch_px - 1) / 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        self._offsets = np.stack([x.ravel(), y.ravel()], axis=1)
        size = len(self._offsets)
        self._patches = np.zeros((num_points, size), np.float32)
        self._jacobians = np.zeros((num_points, size, 6), np.float32)
        self._inverses = np.zeros((num_points, 6, 6), np.float32)
        self._warps = np.tile(np.eye(2, dtype=np.float32), (num_points, 1, 1))

    def start(self, grey: NDArray[np.float32], points: NDArray[np.int64], points_px: NDArray[np.float32]) -> None:
        """Take the patches of these points."""
        patches, deviation = _normalised(_sampled(grey, points_px[:, None] + self._offsets))
        gradients = [
            (_sampled(grey, points_px[:, None] + self._offsets + step) - _sampled(grey, points_px[:, None] + self._offsets - step)) / deviation
            for step in np.eye(2, dtype=np.float32) / 2
        ]
        x, y = self._offsets.T
        jacobians = np.stack([gradients[0] * x, gradients[0] * y, gradients[1] * x, gradients[1] * y, *gradients], axis=2)
        # What gain and offset of the brightness explain is no motion.
        jacobians -= jacobians.mean(axis=1, keepdims=True)
        jacobians -= patches[..., None] * (jacobians * patches[..., None]).mean(axis=1, keepdims=True)
        normal = np.swapaxes(jacobians, 1, 2) @ jacobians
        normal += _DAMPING * (np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6) * np.eye(6, dtype=np.float32)
        self._patches[points], self._jacobians[points], self._inverses[points] = patches, jacobians, np.linalg.inv(normal)
        self._warps[points] = np.eye(2)

    def refine(
        self, grey: NDArray[np.float32], points: NDArray[np.int64], guess_px: NDArray[np.float32], max_shift_px: float, num_iterations: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Aligned positions (n, 2) near a guess, and the normalised correlation there (n,).

        Where the alignment runs away or makes the correlation worse, the guess and the last warp stay.
        """
        found_px, warps = guess_px.copy(), self._warps[points]
        start = self.correlation(grey, points, guess_px)
        active = np.arange(len(points))
        for _ in range(num_iterations):
            chosen = points[active]
            error = self._looks(grey, found_px[active], warps[active]) - self._patches[chosen]
            step = np.einsum("nij,nsj,ns->ni", self._inverses[chosen], self._jacobians[chosen], error, optimize=True)
            undone = np.linalg.inv(np.eye(2, dtype=np.float32) + np.clip(step[:, :4], -0.4, 0.4).reshape(-1, 2, 2))
            warps[active] = warps[active] @ undone
            shift = (warps[active] @ step[:, 4:, None])[..., 0]
            found_px[active] -= np.clip(shift, -max_shift_px, max_shift_px)
            active = active[np.abs(shift).max(axis=1) > _DONE_PX]
            if not len(active):
                break
        correlation = (self._looks(grey, found_px, warps) * self._patches[points]).mean(axis=1)
        stretch = np.linalg.svd(warps, compute_uv=False)
        good = (correlation >= start) & (np.linalg.norm(found_px - guess_px, axis=1) <= max_shift_px)
        good &= (stretch[:, 0] < _MAX_STRETCH) & (stretch[:, 1] > 1 / _MAX_STRETCH)
        self._warps[points[good]] = warps[good]
        return np.where(good[:, None], found_px, guess_px), np.where(good, correlation, start)

    def correlation(self, grey: NDArray[np.float32], points: NDArray[np.int64], points_px: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised correlation (n,) of the surroundings of these positions, under the last warps, with the patches."""
        return np.asarray((self._looks(grey, points_px, self._warps[points]) * self._patches[points]).mean(axis=1))

    def _looks(self, grey: NDArray[np.float32], points_px: NDArray[np.float32], warps: NDArray[np.float32]) -> NDArray[np.float32]:
        return _normalised(_sampled(grey, points_px[:, None] + (self._offsets @ np.swapaxes(warps, 1, 2)).astype(np.float32, copy=False)))[0]


def _sampled(grey: NDArray[np.float32], places_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey levels (n, samples) at places (n, samples, 2); beyond the border they are the border's."""
    x, y = (np.ascontiguousarray(places_px[..., axis], np.float32) for axis in range(2))
    return np.asarray(cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _normalised(patches: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Patches (n, samples) of mean 0 and deviation 1, and the deviation (n, 1) that they had."""
    centred = patches - patches.mean(axis=1, keepdims=True)
    deviation = np.maximum(centred.std(axis=1, keepdims=True), _MIN_CONTRAST)
    return centred / deviation, deviation
