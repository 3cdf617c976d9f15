"""SIFT keypoints (Lowe, IJCV 2004) with RootSIFT descriptors (Arandjelovic and Zisserman, CVPR 2012), and matches that pass a ratio test."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from perception.core.devices import multiplies_bfloat16
from perception.ops.matching import Matches

DIM = 128
_NEIGHBOURS = 12
"""Neighbours among which the second one that lies elsewhere is looked for; when none of them does, the match is as distinct as can be told. They may
be found in bfloat16, and are compared in float32."""
_QUERIES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Keypoints:
    """points_px (num, 2) float64 · sizes_px, angles_rad (num,) float64: diameter, and the direction of the gradients, clockwise from the x axis ·
    descriptors (num, 128) float32 of unit length."""

    points_px: NDArray[np.float64]
    sizes_px: NDArray[np.float64]
    angles_rad: NDArray[np.float64]
    descriptors: torch.Tensor

    def __len__(self) -> int:
        return len(self.points_px)

    def take(self, keep: NDArray[np.bool_]) -> Keypoints:
        """Those where `keep` (num,) is true."""
        return Keypoints(self.points_px[keep], self.sizes_px[keep], self.angles_rad[keep], self.descriptors[torch.from_numpy(keep)])


def detect_keypoints(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None = None,
    max_keypoints: int = 4_000,
    contrast_threshold: float = 0.015,
    edge_threshold: float = 14.0,
) -> Keypoints:
    """Keypoints of an RGB image (height, width, 3), in the mask (height, width) where one is given.

    max_keypoints: those with most contrast; 0: all · thresholds: of OpenCV's detector, which has .04 and 10; weak keypoints are kept here, as the
    ratio test takes out those that say nothing.
    """
    detector = cv2.SIFT.create(nfeatures=max_keypoints, contrastThreshold=contrast_threshold, edgeThreshold=edge_threshold)
    found, values = detector.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None if mask is None else mask.astype(np.uint8))
    if values is None or not len(found):
        return Keypoints(np.zeros((0, 2)), np.zeros(0), np.zeros(0), torch.zeros(0, DIM))
    points, sizes, angles = (np.array([getattr(item, name) for item in found], np.float64) for name in ("pt", "size", "angle"))
    descriptors = torch.from_numpy(values)
    rooted = (descriptors / descriptors.sum(1, keepdim=True).clamp(min=1e-9)).sqrt()
    return Keypoints(points, sizes, np.radians(angles), functional.normalize(rooted, dim=1))


def match_by_ratio(queries: torch.Tensor, references: torch.Tensor, points: NDArray, max_ratio: float, apart_m: float) -> Matches:
    """The reference nearest to each query, where its distance is below `max_ratio` of that to the next one elsewhere on the object.

    queries (num, 128), references (num, 128): of unit length · points (num, 3) of the references; those within `apart_m` of each other are not told
    apart, since several views show the same one (Lowe: the second neighbour must be of another object).
    """
    if len(references) < 2 or not len(queries):
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    at, kept = torch.from_numpy(np.asarray(points)), []
    dtype = torch.bfloat16 if multiplies_bfloat16(queries.device) else torch.float32
    coarse = references.to(dtype).T
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        block = queries[start : start + _QUERIES_AT_ONCE]
        near = (block.to(dtype) @ coarse).topk(min(_NEIGHBOURS, len(references)), dim=1).indices
        cosine, order = (block[:, None] * references[near]).sum(dim=2).sort(dim=1, descending=True)
        index = near.gather(1, order)
        distance = (2 - 2 * cosine).clamp(min=0).sqrt()
        elsewhere = (at[index] - at[index[:, :1]]).norm(dim=2) > apart_m
        second = torch.where(elsewhere, distance, torch.inf).min(1).values.minimum(distance[:, -1])
        good = (distance[:, 0] < max_ratio * second).nonzero()[:, 0]
        kept.append((good + start, index[good, 0], cosine[good, 0]))
    return Matches(*(torch.cat(part).numpy() for part in zip(*kept, strict=True)))
