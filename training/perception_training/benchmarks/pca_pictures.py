"""PCA pictures: several views of a sequence above their descriptors' three main directions as colours, one row for each extractor.

The directions are fitted on all views together (`viz.pca.FeaturePca`), on the object only where the set has masks; one colour then means the same
in all views, so that view-equivariant features keep the colours of a part (MEF, You et al., ICLR 2025, figures 6 and 15).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import FeatureMap, Frame
from perception.ops.sampling import sample_map
from perception.viz.pca import FeaturePca
from perception.viz.text import draw_label
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.running import evenly_chosen
from perception_training.data.sample import Sample
from perception_training.data.sequences import FrameSequence

_GAP_PX = 4
_WHITE = 255


def pca_picture(sequence: FrameSequence, features: Sequence[BenchmarkFeatures], num_views: int = 6, height_px: int = 240) -> NDArray[np.uint8]:
    """One picture (height, width, 3): a row of images, then a row of colours for each extractor."""
    if not features:
        raise InputError("PCA picture: no extractor is given; must be at least one")
    samples = [sequence.load([int(frame)]) for frame in evenly_chosen([str(frame) for frame in range(len(sequence))], num_views)]
    rows = [_row([sample.images[0] for sample in samples], height_px)]
    for item in features:
        maps = [item.step(Frame(sample.images[0], index + 1)) for index, sample in enumerate(samples)]
        row = _row(pca_colours(maps, [_object_mask(sample) for sample in samples]), height_px)
        draw_label(row, item.label, (0.0, 0.0), (40, 40, 40))
        rows.append(row)
    gap = np.full((_GAP_PX, rows[0].shape[1], 3), _WHITE, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1])


def pca_colours(maps: Sequence[FeatureMap], masks: Sequence[NDArray[np.bool_] | None]) -> list[NDArray[np.uint8]]:
    """Colours (height, width, 3) of maps of one extractor, fitted on all of them; black beside the masks."""
    pca = FeaturePca()
    pca.fit([_inside(features, mask) for features, mask in zip(maps, masks, strict=True)])
    coloured = []
    for features, mask in zip(maps, masks, strict=True):
        picture = pca.colorize(features)
        coloured.append(picture if mask is None else np.where(mask[..., None], picture, np.uint8(0)))
    return coloured


def _object_mask(sample: Sample) -> NDArray[np.bool_] | None:
    known = sample.masks is not None and (sample.mask_known is None or bool(sample.mask_known[0]))
    return sample.masks[0] > 0 if known and sample.masks is not None and sample.masks[0].any() else None


def _inside(features: FeatureMap, mask: NDArray[np.bool_] | None) -> FeatureMap:
    """The cells whose centre lies in the mask, as a map of one row; the whole map without a mask."""
    if mask is None:
        return features
    _, num_rows, num_cols = features.descriptors.shape
    rows = np.clip(np.round(features.grid.offset_px[1] + features.grid.stride_px[1] * np.arange(num_rows)), 0, mask.shape[0] - 1).astype(np.int64)
    cols = np.clip(np.round(features.grid.offset_px[0] + features.grid.stride_px[0] * np.arange(num_cols)), 0, mask.shape[1] - 1).astype(np.int64)
    inside = torch.from_numpy(mask[np.ix_(rows, cols)]).to(features.descriptors.device)
    chosen = features.descriptors[:, inside]
    if not chosen.shape[1]:  # an object smaller than a cell
        point = np.argwhere(mask).mean(axis=0)[::-1].astype(np.float32)[None].copy()
        chosen = sample_map(features.descriptors, torch.from_numpy(point).to(features.descriptors.device), features.grid).T
    return replace(features, descriptors=chosen[:, None])


def _row(images: Sequence[NDArray[np.uint8]], height_px: int) -> NDArray[np.uint8]:
    gap = np.full((height_px, _GAP_PX, 3), _WHITE, np.uint8)
    parts: list[NDArray[np.uint8]] = []
    for image in images:
        width_px = max(1, round(image.shape[1] * height_px / image.shape[0]))
        parts += [cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA).astype(np.uint8), gap]
    return np.concatenate(parts[:-1], axis=1)
