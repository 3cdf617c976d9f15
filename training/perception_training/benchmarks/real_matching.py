"""How often the nearest descriptor of another real frame lies where the truth says: our own table, for the features that ship.

`room` (8 images, exact truth, wide baselines, PCK at 4 px), 7-Scenes redkitchen at gaps of 10, 30, 60 and 90 frames and `rgbd_pair` (PCK at 8 px);
none of them may be trained on. For each pair 300 pixels with known depth, drawn at random, that the other frame sees, are looked for among all of
its pixels, descriptors interpolated to every pixel. PCK is the mean over pairs that share enough of what they see. All extractors see the same
pixels in one run, their times are taken in turn.

Which pairs count decides more than anything else: in `room` six of them share a wall that is seen from afar or aslant, where nothing is ever found.
The share and the margin below were chosen, by trying, so that ALIKE-n and dense SIFT get the .327 and .171 that came with the frames (.329 and .172).
Keypoint detectors have no place here: they answer at their own points only, and every pixel is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import ConfigError, InputError, unknown_name
from perception.core.types import FeatureMap, Frame
from perception.evaluation.provenance import Header
from perception.geometry import se3
from perception.geometry.camera import lift_points, project
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.plots import Line, bar_plot
from perception_training.benchmarks.real_frames import READERS, RealPairs, RealView
from perception_training.benchmarks.records import Record
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, compared_header, listing_identity
from perception_training.benchmarks.view_pairs import Candidates, descriptors_at

_BORDER_PX = 10
_MIN_SHARE = 0.035
"""Pairs that share less of the first frame's pixels are left out."""
_SHARE_STRIDE_PX = 4
_MIN_POINTS = 10


@dataclass(frozen=True, kw_only=True)
class RealMatchingConfig(Checked):
    """Which frames and how many points."""

    sets: tuple[str, ...] = tuple(READERS)
    """Folders to look at."""
    num_points: Annotated[int, Range(1)] = 300
    """Points of each pair."""
    search_stride_px: Annotated[int, Range(1, 64, "px")] = 1
    """Distance of the pixels among which the nearest neighbour is looked for."""
    max_relative_depth_error: Annotated[float, Range(0.0, 1.0)] = 0.0
    """A point is seen where the depth of the second frame agrees to this share; 0: as exact as the set is, room 0.01, the others 0.03."""
    max_pairs: Annotated[int, Range(0)] = 0
    """So many pairs of each set, the first ones; 0: all."""


class RealMatching(Benchmark):
    """Units are folders; every extractor is run on each image in turn."""

    name: ClassVar[str] = "real_matching"

    def __init__(self, root: Path, features: Sequence[BenchmarkFeatures], config: RealMatchingConfig | None = None) -> None:
        self.root, self.config = root, config or RealMatchingConfig()
        self.features = {item.label: item for item in features}
        if len(self.features) < len(features):
            raise ConfigError(f"extractors {', '.join(item.label for item in features)}: names must differ; give them labels")
        for name in self.config.sets:
            if name not in READERS:
                raise unknown_name("real_matching: set", name, READERS)

    @cached_property
    def header(self) -> Header:
        return compared_header(
            self.name, list(self.features.values()), to_mapping(self.config), listing_identity("real frames", self.root, self.config.sets)
        )

    @property
    def units(self) -> tuple[str, ...]:
        return self.config.sets

    def predict(self, unit: str) -> Record:
        sets = READERS[unit](self.root / unit)
        pairs = {item.name: item.pairs[: self.config.max_pairs] if self.config.max_pairs else item.pairs for item in sets}
        used = sorted({index for chosen in pairs.values() for pair in chosen for index in pair})
        maps, times_s = self._extract({index: sets[0].views[index] for index in used})
        found = []
        for item in sets:
            errors = {name: self._errors(item, pairs[item.name], maps[name]) for name in maps}
            within = {name: [float((error < item.threshold_px).mean()) for error in values] for name, values in errors.items()}
            found.append({"name": f"{item.name} @{item.threshold_px:g}", "within": within})
        return {"sets": found, "num_images": len(used), "time_s": {name: float(np.median(values)) for name, values in times_s.items()}}

    def _extract(self, views: Mapping[int, RealView]) -> tuple[dict[str, dict[int, FeatureMap]], dict[str, list[float]]]:
        """Maps and times of all extractors, in turn on each image, so that whatever else the machine does disturbs all alike."""
        maps: dict[str, dict[int, FeatureMap]] = {name: {} for name in self.features}
        times_s: dict[str, list[float]] = {name: [] for name in self.features}
        for features in self.features.values():
            features.step(Frame(next(iter(views.values())).image, 1))  # the first call of a network also sets it up
        for index, view in views.items():
            for name, features in self.features.items():
                started = time.perf_counter()
                maps[name][index] = features.step(Frame(view.image, index + 1))
                times_s[name].append(time.perf_counter() - started)
        return maps, times_s

    def _errors(self, item: RealPairs, pairs: Sequence[tuple[int, int]], maps: Mapping[int, FeatureMap]) -> list[NDArray[np.float64]]:
        """Errors in px of each pair that shares enough points; inf where a flat patch finds nothing."""
        errors = []
        for target in sorted({pair[1] for pair in pairs}):
            candidates = Candidates.of_map(maps[target], None, self.config.search_stride_px)
            for source in (pair[0] for pair in pairs if pair[1] == target):
                tolerance = self.config.max_relative_depth_error or item.max_relative_depth_error
                if shared(item.views[source], item.views[target], tolerance) < _MIN_SHARE:
                    continue
                pixels, true_px = true_matches(item.views[source], item.views[target], self.config.num_points, tolerance, 1000 * source + target)
                if len(pixels) >= _MIN_POINTS:
                    found = candidates.nearest(descriptors_at(maps[source], pixels))
                    errors.append(np.nan_to_num(np.linalg.norm(found - true_px, axis=1), nan=np.inf))
        if not errors:
            raise InputError(f"real_matching {self.root}: {item.name}: no pair shares {_MIN_SHARE:.1%} of its pixels")
        return errors


def true_matches(
    source: RealView, target: RealView, num_points: int, max_relative_depth_error: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random pixels (n, 2) of one view that the other sees, and where it sees them."""
    rng = np.random.default_rng(seed)
    height, width = source.image.shape[:2]
    x = rng.integers(_BORDER_PX, width - _BORDER_PX, 4 * num_points)
    y = rng.integers(_BORDER_PX, height - _BORDER_PX, 4 * num_points)
    pixels = np.stack([x, y], axis=1).astype(np.float64)
    true_px, seen = _seen(pixels, source, target, max_relative_depth_error)
    return pixels[seen][:num_points], true_px[seen][:num_points]


def shared(source: RealView, target: RealView, max_relative_depth_error: float) -> float:
    """Share of the pixels of one view, those near its border left out, that the other sees away from its border."""
    height, width = source.image.shape[:2]
    steps = (np.arange(_BORDER_PX, side - _BORDER_PX, _SHARE_STRIDE_PX) for side in (width, height))
    pixels = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2).astype(np.float64)
    return float(_seen(pixels, source, target, max_relative_depth_error)[1].mean())


def _seen(
    pixels: NDArray[np.float64], source: RealView, target: RealView, max_relative_depth_error: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where the other view has these pixels (n, 2), and which of them it sees away from its border."""
    points = lift_points(pixels, source.depth_m, source.camera)
    points_target = se3.transform_points(np.linalg.inv(target.world_from_camera) @ source.world_from_camera, points)
    true_px: NDArray[np.float64] = project(points_target, target.camera)
    height, width = target.image.shape[:2]
    with np.errstate(invalid="ignore"):
        last = np.array([width, height]) - 1 - _BORDER_PX
        inside: NDArray[np.bool_] = np.all((true_px >= _BORDER_PX) & (true_px <= last), axis=1) & np.isfinite(points).all(axis=1)
        cols, rows = np.where(inside[:, None], np.round(np.nan_to_num(true_px)), 0).astype(np.int64).T
        depth = target.depth_m[rows, cols]
        return true_px, inside & (depth > 0) & (np.abs(depth - points_target[:, 2]) < max_relative_depth_error * points_target[:, 2])


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """PCK as the mean over pairs, one row for each extractor; time per frame is the median, over the largest set of images."""
    sets: list[dict[str, Any]] = [item for record in records.values() for item in record["sets"]]
    names = list(sets[0]["within"])
    rows: list[dict[str, str | int | float]] = []
    for name in names:
        shares = {item["name"]: float(np.mean(item["within"][name])) for item in sets}
        times = {f"{unit} ms per frame": 1000 * record["time_s"][name] for unit, record in records.items()}
        rows.append({"extractor": name, **shares, **times})
    summary = {f"{row['extractor']}: {item['name']}": float(row[item["name"]]) for row in rows for item in sets}
    series = [Line(str(row["extractor"]), (), [float(row[item["name"]]) for item in sets]) for row in rows]
    picture = bar_plot([item["name"] for item in sets], series, "share of matches that are right", (0.0, 1.0))
    return BenchmarkScore(summary, next(iter(summary)), rows, {"matching.png": picture})
