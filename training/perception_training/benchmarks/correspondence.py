"""Dense correspondence between views of one object or scene: APE and PCDP as MEF defines them (You et al., ICLR 2025, section 3.1).

For every ordered pair of views of a sequence, surface points of the first are looked for in the second as the nearest neighbour of their
descriptor, features being interpolated to pixels. The error is the distance to where the point truly is, as a share of the shortest image edge.
Points are all those on a pixel grid that both views see (renders and procedural scenes: exact depth), or those of the COLMAP model (MVImgNet). The
released program has no such evaluation (qq456cvb/3DCorrEnhance 06a94d9), and the paper does not say among which pixels the neighbour is looked
for: here among those of the object where the set has masks, else among all, on a grid. Surfaces that move in the world are left out. Only sums are
kept, for each sequence and range of the turn between the views: nothing of size pairs x pixels is stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import FeatureMap, Frame
from perception.evaluation.metrics.correspondence import DENSE_THRESHOLDS, DenseScore
from perception.evaluation.provenance import Header
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.plots import Line, line_plot
from perception_training.benchmarks.records import Record
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, dataset_header, evenly_chosen
from perception_training.benchmarks.view_pairs import Candidates, PosedView, descriptors_at, seen_in, surface_points, turn_between_deg
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset, FrameSequence

TURN_EDGES_DEG = (0.0, 15.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0)
"""Pairs are counted by the angle between their cameras."""
NEAR_TURN_DEG = 90.0
"""APE is also given for the pairs that are turned by no more than this: beyond it local features know hardly more than chance."""


@dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig(Checked):
    """Which views and points are compared."""

    points: Literal["auto", "depth", "tracks"] = "auto"
    """depth: all surface points on a grid; tracks: those that the set follows (COLMAP points); auto: depth where the set has it."""
    point_stride_px: Annotated[int, Range(1, 256, "px")] = 4
    """Distance of the points that are asked for."""
    search_stride_px: Annotated[int, Range(1, 256, "px")] = 2
    """Distance of the pixels among which the nearest neighbour is looked for."""
    max_relative_depth_error: Annotated[float, Range(0.0, 1.0)] = 0.01
    """A point is seen where the depth of the second view agrees to this share."""
    max_sequences: Annotated[int, Range(0)] = 0
    """So many sequences, evenly spaced over the set; 0: all (MEF: 1,000 of Objaverse, 1,000 of MVImgNet)."""
    max_views: Annotated[int, Range(0)] = 0
    """So many views of each sequence, evenly spaced; 0: all."""
    max_turn_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 180.0
    """Only pairs whose cameras are turned by no more than this."""
    max_points: Annotated[int, Range(0)] = 0
    """So many points of each pair, drawn at random; 0: all."""


class Correspondence(Benchmark):
    """Units are sequences of a data set whose views have poses."""

    name: ClassVar[str] = "correspondence"

    def __init__(self, dataset: Dataset, features: BenchmarkFeatures, config: CorrespondenceConfig | None = None) -> None:
        self.dataset, self.features, self.config = dataset, features, config or CorrespondenceConfig()

    @cached_property
    def header(self) -> Header:
        return dataset_header(self.name, self.features, self.dataset, self.config)

    @cached_property
    def units(self) -> tuple[str, ...]:
        return evenly_chosen(self.dataset.sequence_names, self.config.max_sequences)

    def predict(self, unit: str) -> Record:
        """Sums over all pairs, for each range of TURN_EDGES_DEG."""
        sequence = self.dataset.open_sequence(unit)
        views = self._read(sequence)
        sums = [DenseScore() for _ in TURN_EDGES_DEG[1:]]
        num_pairs = [0] * len(sums)
        for target in range(len(views)):
            candidates = Candidates.of_map(views[target].features, views[target].posed.searched, self.config.search_stride_px)
            for source in range(len(views)):
                turn_deg = turn_between_deg(views[source].posed.world_from_camera, views[target].posed.world_from_camera)
                if source == target or turn_deg > self.config.max_turn_deg:
                    continue
                part = min(int(np.searchsorted(TURN_EDGES_DEG, turn_deg, side="right")) - 1, len(sums) - 1)
                found = self._pair(views[source], views[target], candidates, np.random.default_rng([source, target]))
                sums[part] += found
                num_pairs[part] += found.num_points > 0
        return {
            "num_views": len(views),
            "num_pairs": num_pairs,
            "num_points": [item.num_points for item in sums],
            "sum_error": [item.sum_error for item in sums],
            "num_unanswered": sum(view.num_unanswered for view in views),
            "num_within": [item.num_within for item in sums],
        }

    def _pair(self, source: _View, target: _View, candidates: Candidates, rng: np.random.Generator) -> DenseScore:
        pixels, true_px = source.shared_with(target, self.config)
        if self.config.max_points and len(pixels) > self.config.max_points:
            chosen = rng.choice(len(pixels), self.config.max_points, replace=False)
            pixels, true_px = pixels[chosen], true_px[chosen]
        if not len(pixels):
            return DenseScore()
        found_px = candidates.nearest(descriptors_at(source.features, pixels))
        height, width = target.features.image_size
        # A flat patch gives no answer. It counts as the middle of the image, which is the guess that risks least, so that APE stays finite.
        unanswered = ~np.isfinite(found_px).all(axis=1)
        found_px[unanswered] = ((width - 1) / 2, (height - 1) / 2)
        target.num_unanswered += int(unanswered.sum())
        return DenseScore.of_pair(found_px, true_px, width, height)

    def _read(self, sequence: FrameSequence) -> list[_View]:
        """All chosen views with their features, read one by one."""
        poses = sequence.world_from_camera
        if poses is None:
            raise InputError(f"{sequence.source(0)}: the sequence has no camera poses, without which the truth is not known")
        known = np.flatnonzero(np.isfinite(poses).all(axis=(1, 2)))
        if len(known) < 2:
            raise InputError(f"{sequence.source(0)}: {len(known)} of {len(poses)} views have a pose; must be at least 2")
        frames = [int(frame) for frame in evenly_chosen([str(frame) for frame in known], self.config.max_views)]
        views = []
        for frame in frames:
            sample = sequence.load([frame])
            features = self.features.step(Frame(sample.images[0], frame + 1))
            views.append(_View(sample, features, self.config))
        return views


class _View:
    """One view of a sequence: its features, and the points that it shares with others."""

    def __init__(self, sample: Sample, features: FeatureMap, config: CorrespondenceConfig) -> None:
        assert sample.world_from_camera is not None
        camera = sample.cameras[0] if sample.cameras is not None else None
        if camera is None:
            raise InputError(f"{sample.place(0)}: no intrinsics; must be known for correspondences")
        with_depth = sample.depth_m is not None and config.points != "tracks"
        if not with_depth and (sample.tracks is None or config.points == "depth"):
            raise InputError(f"{sample.place(0)}: no truth for points = {config.points!r}: needs depth, or points that the set follows")
        size = (camera.height, camera.width)
        mask_is_known = sample.masks is not None and (sample.mask_known is None or bool(sample.mask_known[0]))
        inside = sample.masks[0] > 0 if sample.masks is not None and mask_is_known and sample.masks[0].any() else np.ones(size, np.bool_)
        still = ~sample.dynamic[0] if sample.dynamic is not None else np.ones(size, np.bool_)
        depth = sample.depth_m[0] if sample.depth_m is not None else np.zeros(size, np.float32)
        self.posed = PosedView(camera, sample.world_from_camera[0], depth, inside & still, inside)
        self.features = features
        self.tracks = None if with_depth else sample.tracks
        self.surface = surface_points(self.posed, config.point_stride_px) if with_depth else None
        self.num_unanswered = 0

    def shared_with(self, other: _View, config: CorrespondenceConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels (n, 2) of this view and where the same points are in the other one."""
        if self.surface is None:
            assert self.tracks is not None
            assert other.tracks is not None
            both = self._followed & other._followed
            return self.tracks.points_px[0, both].astype(np.float64), other.tracks.points_px[0, both].astype(np.float64)
        pixels, points_world = self.surface
        true_px, seen = seen_in(points_world, other.posed, config.max_relative_depth_error)
        return pixels[seen], true_px[seen]

    @cached_property
    def _followed(self) -> NDArray[np.bool_]:
        """(points,) which of the set's points are seen here, on the object where its mask is known."""
        assert self.tracks is not None
        height, width = self.posed.searched.shape
        points = np.round(np.nan_to_num(self.tracks.points_px[0], nan=-1.0)).astype(np.int64)
        inside = self.tracks.visible[0] & ((points >= 0) & (points < (width, height))).all(axis=1)
        cols, rows = np.where(inside[:, None], points, 0).T
        return inside & self.posed.searched[rows, cols]


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """APE and PCDP over all points of all sequences, by sequence and by turn."""
    by_sequence = {unit: [_sums(record, part) for part in range(len(TURN_EDGES_DEG) - 1)] for unit, record in records.items()}
    by_turn = [sum((parts[part] for parts in by_sequence.values()), DenseScore()) for part in range(len(TURN_EDGES_DEG) - 1)]
    overall = sum(by_turn, DenseScore())
    if not overall.num_points:
        raise InputError("correspondence: no pair of views shares a point; nothing can be scored")
    rows: list[dict[str, str | int | float]] = [
        {"sequence": unit, "num_pairs": sum(records[unit]["num_pairs"]), **_figures(sum(parts, DenseScore()))} for unit, parts in by_sequence.items()
    ]
    rows += [
        {
            "sequence": f"all, turned {low:g} to {high:g} deg",
            "num_pairs": sum(r["num_pairs"][part] for r in records.values()),
            **_figures(by_turn[part]),
        }
        for part, (low, high) in enumerate(itertools.pairwise(TURN_EDGES_DEG))
    ]
    num_pairs = sum(sum(record["num_pairs"]) for record in records.values())
    unanswered = sum(record["num_unanswered"] for record in records.values()) / overall.num_points
    within = sum(by_turn[: TURN_EDGES_DEG.index(NEAR_TURN_DEG)], DenseScore())
    summary = {
        **_figures(overall),
        f"ape_within_{NEAR_TURN_DEG:g}_deg_percent": within.ape_percent,
        "num_pairs": num_pairs,
        "unanswered_percent": 100.0 * unanswered,
    }
    return BenchmarkScore(summary, "ape_percent", rows, {"by_turn.png": _plot(by_turn)})


def _sums(record: Record, part: int) -> DenseScore:
    return DenseScore(record["num_points"][part], record["sum_error"][part], np.asarray(record["num_within"][part], np.int64))


def _figures(total: DenseScore) -> dict[str, float]:
    shares = {f"pcdp_{100 * threshold:g}_percent": float(share) for threshold, share in zip(DENSE_THRESHOLDS, total.pcdp_percent, strict=True)}
    return {"ape_percent": total.ape_percent, **shares, "num_points": total.num_points}


def _plot(by_turn: list[DenseScore]) -> bytes:
    middles = [(low + high) / 2 for low, high in itertools.pairwise(TURN_EDGES_DEG)]
    lines = [
        Line(f"within {100 * threshold:g} %", middles, [float(total.pcdp_percent[index]) for total in by_turn])
        for index, threshold in enumerate(DENSE_THRESHOLDS)
    ]
    return line_plot(lines, "angle between the cameras (deg)", "correct dense points (%)", (0.0, 100.0))
