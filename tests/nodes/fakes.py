"""Nodes with quick pipelines, for tests of everything around the pipeline."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from perception.core.errors import InputError
from perception.core.types import FeatureMap, Frame, Grid, NoPose, PoseEstimate, PoseResult
from perception.nodes.features_node import FeaturesNode


class QuickFeatures:
    """8-dimensional features of nothing, after a pause."""

    name, dim = "quick", 8

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s, self.frames = pause_s, []  # type: ignore[var-annotated]
        self.error: Exception | None = None

    def step(self, frame: Frame) -> FeatureMap:
        self.frames.append(frame.time_ns)
        time.sleep(self.pause_s)
        if self.error is not None:
            raise self.error
        descriptors = torch.nn.functional.normalize(torch.arange(8 * 6 * 8, dtype=torch.float32).reshape(8, 6, 8), dim=0)
        return FeatureMap(descriptors, Grid((3.5, 3.5), (8.0, 8.0)), frame.image.shape[:2], self.name, frame.time_ns, frame.frame_id)


class QuickFeaturesNode(FeaturesNode):
    """A features node whose weights are a QuickFeatures."""

    quick: QuickFeatures | None = None
    pause_s = 0.0
    build_error: Exception | None = None
    num_freed = 0

    def make_features(self, config: Any) -> Any:
        if self.build_error is not None:
            raise self.build_error
        self.quick = QuickFeatures(self.pause_s)
        return self.quick

    def free_features(self, config: Any) -> None:
        self.num_freed += 1
        self.quick = None


class QuickPose:
    """The contract of OneShotPose: every known object lies one metre ahead, unless its name begins with `hidden`."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names = list(names)
        self.num_resets = 0

    @property
    def object_names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def add_object(self, database: Any) -> None:
        self._names = [*(name for name in self._names if name != database.name), database.name]

    def remove_object(self, name: str) -> None:
        if name not in self._names:
            raise InputError(f"object {name!r} is not known; known: {', '.join(self._names) or 'none'}")
        self._names.remove(name)

    def reset(self) -> None:
        self.num_resets += 1

    def step(self, frame: Frame) -> PoseResult:
        names = list(self._names)
        estimates = tuple(quick_estimate(name, 0.9 - 0.1 * index) for index, name in enumerate(names) if not name.startswith("hidden"))
        misses = tuple(NoPose(name, "too few matches (3 of 6 needed)", 3) for name in names if name.startswith("hidden"))
        return PoseResult(frame.time_ns, frame.frame_id, estimates, misses)


def quick_estimate(name: str, score: float) -> PoseEstimate:
    """A quarter turn about z, one metre ahead."""
    camera_from_object = np.eye(4)
    camera_from_object[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    camera_from_object[:3, 3] = 0.1, -0.2, 1.0
    points_px, points = np.zeros((6, 2), np.float32), np.zeros((6, 3), np.float32)
    bounds = np.array([[-0.1, -0.1, -0.1], [0.1, 0.1, 0.1]], np.float32)
    return PoseEstimate(name, camera_from_object, 1e-4 * np.eye(6), score, 20, 6, 0.5, points_px, points, bounds)
