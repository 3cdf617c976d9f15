"""Frame in, map of unit descriptors out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Range
from perception.core.types import FeatureMap, Frame, Grid
from perception.models.extractor import ExtractorConfig
from perception.models.network_extractor import NetworkExtractor
from perception.models.registry import create_extractor


@dataclass(frozen=True, kw_only=True)
class DenseFeaturesConfig(ExtractorConfig):
    """The extractor and what is done to a frame before it."""

    max_image_side_px: Annotated[int, Range(0, 16384, "px")] = 0
    """Frames with a longer side are scaled down to it first; the grid still counts in pixels of the frame as it came. 0: never."""
    num_threads: Annotated[int, Range(0, 256)] = 0
    """Threads that torch may use in the whole process; 0 leaves torch's own choice."""


class DenseFeatures:
    """Dense descriptors of single frames; keeps nothing of past frames. Use it from one thread at a time (see pipelines/shared)."""

    def __init__(self, config: DenseFeaturesConfig) -> None:
        self.config = config
        if config.num_threads:
            torch.set_num_threads(config.num_threads)
        self._extractor = create_extractor(config)

    @property
    def name(self) -> str:
        """What the descriptors are; only maps of equal names can be matched."""
        return self._extractor.name

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return self._extractor.dim

    @property
    def is_network(self) -> bool:
        """Whether it is a network, which can be adapted, and not a fixed filter."""
        return isinstance(self._extractor, NetworkExtractor)

    def step(self, frame: Frame) -> FeatureMap:
        """The descriptors of one frame. A cell without any image gradient may be all zero; no cell is NaN."""
        height, width = frame.image.shape[:2]
        image, scale_x, scale_y = self._limited(frame.image)
        with torch.inference_mode():
            descriptors, grid = self._extractor.extract(image)
        grid = Grid(
            ((grid.offset_px[0] + 0.5) * scale_x - 0.5, (grid.offset_px[1] + 0.5) * scale_y - 0.5),
            (grid.stride_px[0] * scale_x, grid.stride_px[1] * scale_y),
        )
        return FeatureMap(descriptors, grid, (height, width), self.name, frame.time_ns, frame.frame_id)

    def _limited(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float, float]:
        """The image within `max_image_side_px`, and how many pixels of the original one of its pixels spans in x and y."""
        height, width = image.shape[:2]
        limit = self.config.max_image_side_px
        if not limit or max(height, width) <= limit:
            return np.ascontiguousarray(image), 1.0, 1.0
        scale = limit / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return resized, width / size[0], height / size[1]
