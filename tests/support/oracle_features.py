"""Features whose scores are known: perfect ones, which know the surface point behind each pixel, and random ones, which know nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tests.support.miniatures.scene import MiniatureScene

from perception.core.types import FeatureMap, Frame, Grid
from perception.geometry import se3
from perception.geometry.camera import depth_to_points
from perception_training.benchmarks.image_features import BenchmarkFeatures, BenchmarkFeaturesConfig

DIM = 192
_RIGHT_IMAGE = 20.0
"""Grey levels in the mean by which an image may be off (JPEG); another frame of the scene is off by 40."""


class _GivenFeatures(BenchmarkFeatures):
    """A benchmark's features without an extractor of the registry."""

    def __init__(self, label: str, stride_px: int) -> None:
        self.benchmark_config = BenchmarkFeaturesConfig(label=label)
        self.stride_px = stride_px
        self.num_steps = 0

    @property
    def name(self) -> str:
        return self.benchmark_config.label

    @property
    def dim(self) -> int:
        return DIM

    def identity(self) -> dict[str, Any]:
        return {"extractor": self.name}

    def step(self, frame: Frame) -> FeatureMap:
        self.num_steps += 1
        height, width = frame.image.shape[:2]
        descriptors = torch.nn.functional.normalize(torch.from_numpy(self.descriptors(frame.image)).permute(2, 0, 1), dim=0)
        grid = Grid((0.0, 0.0), (float(self.stride_px),) * 2)
        return FeatureMap(descriptors.contiguous(), grid, (height, width), self.name, frame.time_ns, frame.frame_id)

    def descriptors(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(rows, cols, DIM) of every stride_px-th pixel."""
        raise NotImplementedError


class OracleFeatures(_GivenFeatures):
    """Random Fourier features of the surface point behind each pixel: the similarity of two pixels falls with the distance of their points.

    known: images with point maps (height, width, 3), NaN where nothing is seen.
    """

    def __init__(self, known: Sequence[tuple[NDArray[np.uint8], NDArray]], scale: float = 0.05, label: str = "oracle", stride_px: int = 1) -> None:
        super().__init__(label, stride_px)
        self.known = list(known)
        rng = np.random.default_rng(0)
        self._waves = rng.normal(scale=1 / scale, size=(3, DIM)).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, DIM).astype(np.float32)

    def descriptors(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        errors = [_difference(image, *known) for known in self.known]
        best = int(np.argmin(errors))
        assert errors[best] < _RIGHT_IMAGE, f"the oracle does not know this image: the nearest is off by {errors[best]:.1f}"
        points = self.known[best][1][:: self.stride_px, :: self.stride_px].astype(np.float32)
        values = np.cos(np.nan_to_num(points) @ self._waves + self._phases)
        values[~np.isfinite(points).all(-1)] = 0.0
        return values


def _difference(image: NDArray[np.uint8], known: NDArray[np.uint8], points: NDArray) -> float:
    """Mean difference where a surface is seen: behind it sets differ."""
    seen = np.isfinite(points).all(-1)
    return float(np.abs(image[seen].astype(int) - known[seen]).mean()) if image.shape == known.shape else np.inf


class RandomFeatures(_GivenFeatures):
    """Noise, another for each image."""

    def __init__(self, label: str = "random", stride_px: int = 1) -> None:
        super().__init__(label, stride_px)

    def descriptors(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        rng = np.random.default_rng(zlib.crc32(image.tobytes()))
        size = (-(-side // self.stride_px) for side in image.shape[:2])
        return rng.normal(size=(*size, DIM)).astype(np.float32)


def world_points(scene: MiniatureScene, frame: int) -> NDArray[np.float64]:
    """(height, width, 3) point map of a frame of the scene in the world."""
    return se3.transform_points(scene.world_from_camera[frame], depth_to_points(scene.depth_m[frame].astype(np.float64), scene.cameras[frame]))


def scene_oracle(scene: MiniatureScene, stride_px: int = 1) -> OracleFeatures:
    """Knows all frames of the scene."""
    return OracleFeatures([(scene.images[frame], world_points(scene, frame)) for frame in range(len(scene))], stride_px=stride_px)


def resized_points(points: NDArray, width: int, height: int) -> NDArray:
    """A point map brought to another size by its nearest pixels."""
    return cv2.resize(points, (width, height), interpolation=cv2.INTER_NEAREST)
