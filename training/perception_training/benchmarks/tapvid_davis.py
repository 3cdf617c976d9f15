"""Point tracking on TAP-Vid-DAVIS (Doersch et al., NeurIPS 2022), queries `first` and `strided`: AJ, average share of points within, OA.

Each frame is matched straight to the query frame by `perception.pipelines.point_tracker.track_clip`, as MEF does (You et al., ICLR 2025; it
reports `strided`, with videos at 476 x 854 px and a ViT stride of 7: image_side_px 854, stride_px 7). All features of a video are computed once
for both kinds of queries. Scores are those of the 256 x 256 raster, of each video, then averaged over videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.types import Frame, Grid
from perception.evaluation.metrics.tracking import RASTER_PX, THRESHOLDS_PX, QueryMode, track_scores
from perception.evaluation.provenance import Header, source_identity
from perception.pipelines.point_tracker import PointTrackerConfig, track_clip
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.plots import Line, line_plot
from perception_training.benchmarks.records import Record, floats
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, benchmark_header, evenly_chosen, listing_identity
from perception_training.data.readers.tapvid_davis import PICKLE, TapVidDavis, TapVidOptions
from perception_training.data.sample import Tracks

MODES: tuple[QueryMode, ...] = get_args(QueryMode)
_DECIMALS = 3


@dataclass(frozen=True, kw_only=True)
class TapVidConfig(Checked):
    """Which videos are tracked, and how."""

    tracker: PointTrackerConfig = PointTrackerConfig()
    max_videos: Annotated[int, Range(0)] = 0
    """So many videos, evenly spaced; 0: all 30."""
    max_frames: Annotated[int, Range(0)] = 0
    """Only the first so many frames of each video; 0: all. Other scores than the published ones."""
    max_queries: Annotated[int, Range(0)] = 0
    """So many queries of each kind and video, evenly spaced; 0: all."""


class TapVidDavisBenchmark(Benchmark):
    """Units are videos."""

    name: ClassVar[str] = "tapvid_davis"

    def __init__(self, dataset: TapVidDavis, features: BenchmarkFeatures, config: TapVidConfig | None = None) -> None:
        self.features, self.config = features, config or TapVidConfig()
        cache = dataset.options.cache
        self.datasets = {mode: TapVidDavis(dataset.root, TapVidOptions(queries=mode, cache=cache)) for mode in MODES}

    @cached_property
    def header(self) -> Header:
        dataset = self.datasets["first"]
        pickle = dataset.root / PICKLE if dataset.root.is_dir() else dataset.root
        source = source_identity(pickle) if pickle.is_file() else listing_identity(dataset.name, dataset.root, dataset.sequence_names)
        return benchmark_header(self.name, self.features, to_mapping(self.config), source)

    @cached_property
    def units(self) -> tuple[str, ...]:
        return evenly_chosen(self.datasets["first"].sequence_names, self.config.max_videos)

    @torch.inference_mode()
    def predict(self, unit: str) -> Record:
        """Predicted and true tracks on the raster, for both kinds of queries."""
        num_frames = len(self.datasets["first"].open_sequence(unit))
        frames = range(min(num_frames, self.config.max_frames or num_frames))
        samples = {mode: dataset.open_sequence(unit).load(frames) for mode, dataset in self.datasets.items()}
        maps = [self.features.step(Frame(image, frame + 1)) for frame, image in enumerate(samples["first"].images)]
        features = torch.stack([item.descriptors for item in maps])
        return {mode: self._tracked(features, maps[0].grid, maps[0].image_size, samples[mode].tracks) for mode in MODES}

    def _tracked(self, features: torch.Tensor, grid: Grid, size: tuple[int, int], truth: Tracks | None) -> dict[str, Any]:
        assert truth is not None
        assert truth.query_frames is not None
        asked = np.flatnonzero((truth.query_frames >= 0) & (truth.query_frames < len(features)))
        asked = asked[[int(index) for index in evenly_chosen([str(index) for index in range(len(asked))], self.config.max_queries)]]
        query_frames = truth.query_frames[asked]
        queries = np.concatenate([truth.points_px[query_frames, asked], query_frames[:, None]], axis=1).astype(np.float32)
        found = track_clip(features, torch.from_numpy(queries).to(features.device), grid, self.config.tracker)
        return {
            "query_frames": query_frames,
            "points": np.round(on_raster(found.points_px.float().cpu().numpy(), size), _DECIMALS),
            "occluded": found.occluded.cpu().numpy().astype(np.uint8),
            "true_points": np.round(on_raster(truth.points_px[:, asked].transpose(1, 0, 2), size), _DECIMALS),
            "true_occluded": (~truth.visible[:, asked].T).astype(np.uint8),
        }


def on_raster(points_px: NDArray, size: tuple[int, int]) -> NDArray[np.float64]:
    """Points (..., 2) of an image (height, width), pixel centres at integers, on TAP-Vid's raster, whose first pixel reaches from 0 to 1."""
    height, width = size
    return (np.asarray(points_px, np.float64) + 0.5) * (RASTER_PX / width, RASTER_PX / height)


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """AJ, average share within and OA in percent, for both kinds of queries, as means over videos."""
    rows: list[dict[str, str | int | float]] = []
    summary: dict[str, float] = {}
    lines = []
    for mode in MODES:
        figures: list[dict[str, str | int | float]] = [
            {"video": unit, "queries": mode, **_video(record[mode], mode)} for unit, record in records.items()
        ]
        rows += figures
        names = [name for name in figures[0] if name not in ("video", "queries", "num_queries")]
        means = {name: _mean([float(row[name]) for row in figures]) for name in names}
        summary |= {f"{mode}_{name}": value for name, value in means.items()}
        summary[f"{mode}_num_queries"] = sum(int(row["num_queries"]) for row in figures)
        lines.append(Line(mode, THRESHOLDS_PX, [means[f"within_{threshold:g}px_percent"] for threshold in THRESHOLDS_PX]))
    picture = line_plot(lines, "threshold (px of 256 x 256)", "points within (%)", (0.0, 100.0))
    return BenchmarkScore(summary, "strided_average_jaccard_percent", rows, {"points_within.png": picture})


def _video(record: Record, mode: QueryMode) -> dict[str, float]:
    num = len(record["query_frames"])
    occluded, true_occluded = (np.array(record[name], np.bool_).reshape(num, -1) for name in ("occluded", "true_occluded"))
    points, true_points = (floats(record[name]).reshape(*true_occluded.shape, 2) for name in ("points", "true_points"))
    found = track_scores(points, occluded, true_points, true_occluded, np.array(record["query_frames"], np.int64), mode)
    within = {f"within_{threshold:g}px_percent": 100 * float(share) for threshold, share in zip(THRESHOLDS_PX, found.points_within, strict=True)}
    return {
        "num_queries": num,
        "average_jaccard_percent": 100 * float(found.average_jaccard),
        "average_within_percent": 100 * float(found.average_points_within),
        "occlusion_accuracy_percent": 100 * float(found.occlusion_accuracy),
        **within,
    }


def _mean(values: Sequence[float]) -> float:
    """Over videos with something to count."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
