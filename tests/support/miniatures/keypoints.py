"""Which points of the scene an annotator marks in two of its images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tests.support.miniatures.scene import MiniatureScene, miniature_scene, seen_by

SOURCE, TARGET = 0, 2
"""Frames of the scene that make the pair."""


@dataclass(frozen=True, eq=False)
class PairTruth:
    """Two images of different size of the same static points.

    images (source, target) · masks as in the scene · points_px (2, N, 2) true projections · seen (2, N): marked in this image.
    """

    images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    masks: tuple[NDArray[np.int32], NDArray[np.int32]]
    points_px: NDArray[np.float64]
    seen: NDArray[np.bool_]

    @property
    def common(self) -> NDArray[np.int64]:
        """Indices of the points that are marked in both images."""
        return np.flatnonzero(self.seen.all(axis=0))

    def boxes_px(self) -> NDArray[np.float64]:
        """(2, 4) extent of the scene's box (mask id 1) as x0, y0, x1, y1."""
        boxes = []
        for mask in self.masks:
            rows, cols = np.nonzero(mask == 1)
            boxes.append([cols.min(), rows.min(), cols.max(), rows.max()])
        return np.array(boxes, np.float64)


@lru_cache(maxsize=1)
def pair_truth() -> PairTruth:
    """Frames SOURCE and TARGET of the miniature scene; the target in twice the size, and with a point of the source hidden as well."""
    scene = miniature_scene()
    larger: MiniatureScene = seen_by(scene, scene.cameras[0].resized(320, 240))
    seen = np.stack([scene.visible[SOURCE], larger.visible[TARGET]])
    hidden_in_source = int(np.flatnonzero(seen.all(axis=0))[3])
    seen[0, hidden_in_source] = False
    return PairTruth(
        images=(scene.images[SOURCE], larger.images[TARGET]),
        masks=(scene.masks[SOURCE], larger.masks[TARGET]),
        points_px=np.stack([scene.points_px[SOURCE], larger.points_px[TARGET]]),
        seen=seen,
    )
