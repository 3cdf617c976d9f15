"""Dense descriptors as colours: their three main directions, kept fixed so that a colour means the same in every image."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import FeatureMap

_PERCENTILES = (2.0, 98.0)


class FeaturePca:
    """Three principal components of descriptors, as red, green and blue.

    Fitted on the first map it colours, or on a list by `fit`; `reset` forgets the fit. num_fit: at most so many descriptors, evenly
    spaced over the maps, are used to fit.
    """

    def __init__(self, num_fit: int = 20_000) -> None:
        if num_fit < 4:
            raise InputError(f"FeaturePca num_fit = {num_fit}: must be at least 4")
        self._num_fit = num_fit
        self.reset()

    def reset(self) -> None:
        """Forget the fit; the next map is fitted anew."""
        self._extractor: tuple[str, int] | None = None
        self._mean = self._directions = torch.zeros(0)
        self._low = self._high = torch.zeros(0)

    @property
    def is_fitted(self) -> bool:
        return self._extractor is not None

    def fit(self, feature_maps: Iterable[FeatureMap]) -> None:
        """Find mean, directions and colour range. InputError when there is no map or maps of several extractors."""
        maps = list(feature_maps)
        kinds = {(item.extractor, item.dim) for item in maps}
        if len(kinds) != 1:
            raise InputError(f"FeaturePca: {len(maps)} feature maps of {sorted(kinds)}: must be at least one, all of the same extractor")
        descriptors = torch.cat([item.descriptors.flatten(1).T for item in maps]).float().cpu()
        step = max(1, -(-len(descriptors) // self._num_fit))
        descriptors = descriptors[::step].double()
        self._mean = descriptors.mean(0)
        centred = descriptors - self._mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        directions = torch.zeros(len(self._mean), 3, dtype=torch.float64)
        main = vectors.flip(1)[:, :3]
        # An eigenvector's sign is arbitrary: without this rule colours would change with the linear algebra library.
        directions[:, : main.shape[1]] = main * main.gather(0, main.abs().argmax(0, keepdim=True)).sign()
        values = centred @ directions
        low, high = np.percentile(values.numpy(), _PERCENTILES, axis=0)
        self._low = torch.from_numpy(low).float()
        self._high = torch.from_numpy(np.maximum(high, low + 1e-6)).float()
        self._mean, self._directions = self._mean.float(), directions.float()
        self._extractor = kinds.pop()

    def colorize(self, feature_map: FeatureMap, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Colours of a map, bilinear between cells. size: (height, width) of the result, None: the image's. Returns (height, width, 3) uint8 RGB."""
        if not self.is_fitted:
            self.fit([feature_map])
        if (feature_map.extractor, feature_map.dim) != self._extractor:
            raise InputError(f"FeaturePca was fitted on {self._extractor}, got {(feature_map.extractor, feature_map.dim)}: call reset() first")
        _, rows, columns = feature_map.descriptors.shape
        descriptors = feature_map.descriptors.flatten(1).T.float().cpu()
        values = ((descriptors - self._mean) @ self._directions - self._low) / (self._high - self._low)
        cells = values.clamp(0.0, 1.0).reshape(rows, columns, 3).mul(255.0).numpy()
        height, width = size or feature_map.image_size
        return np.rint(self._upsample(cells, feature_map, height, width)).astype(np.uint8)

    @staticmethod
    def _upsample(cells: NDArray[np.float32], feature_map: FeatureMap, height: int, width: int) -> NDArray[np.float32]:
        """Bilinear at the true place of every cell; the outermost cells are continued to the border."""
        image_height, image_width = feature_map.image_size
        scale = (image_width / width, image_height / height)
        inverse = np.zeros((2, 3))
        for axis in range(2):
            inverse[axis, axis] = scale[axis] / feature_map.grid.stride_px[axis]
            inverse[axis, 2] = (0.5 * scale[axis] - 0.5 - feature_map.grid.offset_px[axis]) / feature_map.grid.stride_px[axis]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(cells, inverse, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]
