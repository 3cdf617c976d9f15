"""SIFT descriptors on a regular grid of upright keypoints, computed for the whole image at once.

OpenCV visits a window of some 120x120 pixels for every keypoint. All windows of an upright grid are the same, and the weight
of a pixel in a spatial bin (a triangle times a Gaussian) is a product of a row factor and a column factor. So the descriptor
is two banded matrix products over eight maps of gradient magnitude, one for each orientation.

Definition: Lowe, IJCV 2004, with the constants of OpenCV's SIFT (4x4 bins of 3 * size / 2 pixels, 8 orientations, clipping at
0.2); root normalisation: Arandjelović and Zisserman, CVPR 2012.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.errors import ConfigError
from perception.core.types import Grid
from perception.models.extractor import ExtractorConfig, check_image, resolve_device

DEFAULT_STEP_PX = 4
_NUM_BINS = 4
_NUM_ORIENTATIONS = 8
_DIM = _NUM_BINS * _NUM_BINS * _NUM_ORIENTATIONS
_BLUR_SIGMA_PX = float(np.sqrt(1.6**2 - 0.5**2))  # brings a camera image (taken to have 0.5 px of blur) to SIFT's first scale
_CLIP = 0.2
_LARGEST_ENTRY = 255 / 512  # OpenCV stores 512 times the unit descriptor in a byte
_BLOCK = 20  # grid positions of one dense product: small enough to skip most zeros of the band, large enough for a fast product

_CELLS_AT_ONCE = 2048  # a megabyte of histograms, so that all passes of the normalisation find them in the cache


@dataclass(frozen=True)
class _Band:
    """Weights of the pixels [low, high) for the four bins of the grid positions [start, stop): (4 * (stop - start), high - low)."""

    start: int
    stop: int
    low: int
    high: int
    weights: torch.Tensor


def _positions(length_px: int, step_px: int) -> NDArray[np.int64]:
    return np.arange(step_px // 2, length_px, step_px) if length_px > step_px // 2 else np.array([length_px // 2])


def _bands(length_px: int, step_px: int, bin_width_px: float, device: torch.device) -> list[_Band]:
    """The separable factor along one image axis, cut into blocks of grid positions."""
    positions = _positions(length_px, step_px)
    reach = int(np.ceil(bin_width_px * (_NUM_BINS + 1) / 2))
    bands = []
    for start in range(0, len(positions), _BLOCK):
        block = positions[start : start + _BLOCK]
        low, high = max(0, block[0] - reach), min(length_px, block[-1] + reach + 1)
        distance = (np.arange(low, high) - block[:, None]) / bin_width_px
        centres = np.arange(_NUM_BINS)[:, None, None] - (_NUM_BINS - 1) / 2
        weights = np.clip(1 - np.abs(distance - centres), 0, None) * np.exp(-(distance**2) / (_NUM_BINS**2 / 2))
        bands.append(_Band(start, start + len(block), low, high, torch.from_numpy(weights.reshape(-1, high - low).astype(np.float32)).to(device)))
    return bands


def _orientation_maps(image: NDArray[np.uint8]) -> torch.Tensor:
    """Gradient magnitude (8, height, width), shared linearly between the two nearest orientations; zero on the outermost pixels."""
    grey: NDArray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = cv2.GaussianBlur(grey, (0, 0), _BLUR_SIGMA_PX)
    right = np.zeros_like(grey)
    up = np.zeros_like(grey)
    right[1:-1, 1:-1] = grey[1:-1, 2:] - grey[1:-1, :-2]
    up[1:-1, 1:-1] = grey[:-2, 1:-1] - grey[2:, 1:-1]
    magnitude, angle_deg = (torch.from_numpy(np.asarray(part)) for part in cv2.cartToPolar(right, up, angleInDegrees=True))
    position = angle_deg.mul_(_NUM_ORIENTATIONS / 360.0)
    below = position.floor()
    upper = position.sub_(below).mul_(magnitude)
    index = below.to(torch.int64)
    maps = torch.zeros(_NUM_ORIENTATIONS, *grey.shape)
    maps.scatter_(0, (index % _NUM_ORIENTATIONS)[None], (magnitude - upper)[None])
    maps.scatter_(0, ((index + 1) % _NUM_ORIENTATIONS)[None], upper[None])
    return maps


def _root_normalise(histograms: torch.Tensor) -> None:
    """Clip, normalise and root the columns of (128, num), in place; zero stays zero."""
    tiny = torch.finfo(histograms.dtype).tiny
    for cells in histograms.split(_CELLS_AT_ONCE, dim=1):
        for limit in (_CLIP, _LARGEST_ENTRY):
            norm = (cells * cells).sum(0).sqrt_()
            torch.minimum(cells, norm.mul_(limit), out=cells)
        cells.div_(cells.sum(0).clamp_(min=tiny)).sqrt_()


class DenseSift:
    """Root-normalised SIFT descriptors of upright keypoints on a grid, in OpenCV's order of entries (row bin, column bin, orientation).

    step_px: distance of the keypoints, the first at step // 2. size_px: keypoint size as OpenCV counts it. An image without any
    gradient gives zero descriptors, never NaN. Not safe to share between threads without a lock.
    """

    dim = _DIM

    def __init__(self, step_px: int = DEFAULT_STEP_PX, size_px: float = 16.0, device: str = "auto") -> None:
        self.step_px = step_px
        self.size_px = size_px
        self.name = f"dense_sift(size={size_px:g})"
        self._device = resolve_device(device)
        self._bands: dict[int, list[_Band]] = {}

    def extract(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Grid]:
        """image (height, width, 3) RGB → (128, rows, cols) float32 unit descriptors and their grid."""
        check_image(image, "dense_sift")
        height, width = image.shape[:2]
        maps = _orientation_maps(image).to(self._device)
        by_row = self._along_rows(maps, self._bands_of(height))
        descriptors = self._along_columns(by_row, self._bands_of(width))
        _root_normalise(descriptors.flatten(1))
        return descriptors, _grid(height, width, self.step_px)

    def _bands_of(self, length_px: int) -> list[_Band]:
        if length_px not in self._bands:
            if len(self._bands) > 8:
                self._bands.clear()
            self._bands[length_px] = _bands(length_px, self.step_px, 1.5 * self.size_px, self._device)
        return self._bands[length_px]

    @staticmethod
    def _along_rows(maps: torch.Tensor, bands: list[_Band]) -> torch.Tensor:
        """(8, height, width) → (8, row bin, rows, width)."""
        width = maps.shape[2]
        out = maps.new_empty(_NUM_ORIENTATIONS, _NUM_BINS, bands[-1].stop, width)
        for band in bands:
            product = torch.matmul(band.weights, maps[:, band.low : band.high])
            out[:, :, band.start : band.stop] = product.view(_NUM_ORIENTATIONS, _NUM_BINS, -1, width)
        return out

    @staticmethod
    def _along_columns(by_row: torch.Tensor, bands: list[_Band]) -> torch.Tensor:
        """(8, row bin, rows, width) → (128, rows, cols) in the order row bin, column bin, orientation."""
        rows = by_row.shape[2]
        flat = by_row.flatten(0, 2)
        out = flat.new_empty(_NUM_BINS, _NUM_BINS, _NUM_ORIENTATIONS, rows, bands[-1].stop)
        for band in bands:
            product = flat[:, band.low : band.high] @ band.weights.T
            out[..., band.start : band.stop] = product.view(_NUM_ORIENTATIONS, _NUM_BINS, rows, _NUM_BINS, -1).permute(1, 3, 0, 2, 4)
        return out.flatten(0, 2)


class DenseSiftOpenCv:
    """The same descriptors through cv2.SIFT, one keypoint at a time: the baseline of every comparison, some hundred times slower."""

    dim = _DIM

    def __init__(self, step_px: int = DEFAULT_STEP_PX, size_px: float = 16.0) -> None:
        self.step_px = step_px
        self.size_px = size_px
        self.name = f"dense_sift(size={size_px:g})"
        self._sift: Any = cv2.SIFT.create()

    def extract(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Grid]:
        """image (height, width, 3) RGB → (128, rows, cols) float32 unit descriptors and their grid."""
        check_image(image, "dense_sift_opencv")
        height, width = image.shape[:2]
        rows, cols = _positions(height, self.step_px), _positions(width, self.step_px)
        keypoints = [cv2.KeyPoint(float(x), float(y), self.size_px, 0.0, 0.0, 0) for y in rows for x in cols]
        _, descriptors = self._sift.compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), keypoints)
        root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), np.finfo(np.float32).tiny))
        return torch.from_numpy(np.ascontiguousarray(root.T)).view(_DIM, len(rows), len(cols)), _grid(height, width, self.step_px)


def _grid(height: int, width: int, step_px: int) -> Grid:
    return Grid((float(_positions(width, step_px)[0]), float(_positions(height, step_px)[0])), (float(step_px), float(step_px)))


def _check(config: ExtractorConfig) -> None:
    if config.backend not in ("auto", "torch"):
        raise ConfigError(f"backend = {config.backend!r}: {config.extractor} is no network graph; allowed: auto, torch")
    if config.weights:
        raise ConfigError(f"weights = {config.weights!r}: {config.extractor} has no weights; leave it empty")


def create_dense_sift(config: ExtractorConfig) -> DenseSift:
    """`dense_sift` of the registry."""
    _check(config)
    return DenseSift(config.stride_px or DEFAULT_STEP_PX, config.sift_size_px, config.device)


def create_dense_sift_opencv(config: ExtractorConfig) -> DenseSiftOpenCv:
    """`dense_sift_opencv` of the registry."""
    _check(config)
    return DenseSiftOpenCv(config.stride_px or DEFAULT_STEP_PX, config.sift_size_px)
