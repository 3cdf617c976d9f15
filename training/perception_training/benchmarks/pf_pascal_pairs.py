"""PF-PASCAL with any dense extractor: pairs of the test set through `pf_pascal.keypoint_errors`, PCK at .05, .10 and .15 of the square's edge.

Pairs of different or of the same views, from the lists of MEF (qq456cvb/3DCorrEnhance; 299 each); both images are scaled into a black square of
840 px by Lanczos resampling. The features' own cells are taken for what they are: half a pixel before where the published program puts them
(`pf_pascal.GRID`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Frame
from perception.evaluation.provenance import Header
from perception.ops.sampling import letterbox_keypoints
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.pf_pascal import SIZE_PX, keypoint_errors, score_categories
from perception_training.benchmarks.plots import Line, bar_plot
from perception_training.benchmarks.records import Record, floats
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, dataset_header, evenly_chosen
from perception_training.data.readers.pf_pascal import PfPascal


@dataclass(frozen=True, kw_only=True)
class PfPascalConfig(Checked):
    """Which pairs are looked at."""

    size_px: Annotated[int, Range(16, 4096, "px")] = SIZE_PX
    """Edge of the square (840 as published)."""
    max_pairs: Annotated[int, Range(0)] = 0
    """So many pairs, evenly spaced over the list; 0: all."""


class PfPascalBenchmark(Benchmark):
    """Units are pairs; the reader's options say which list."""

    name: ClassVar[str] = "pf_pascal"

    def __init__(self, dataset: PfPascal, features: BenchmarkFeatures, config: PfPascalConfig | None = None) -> None:
        self.dataset, self.features, self.config = dataset, features, config or PfPascalConfig()

    @cached_property
    def header(self) -> Header:
        return dataset_header(self.name, self.features, self.dataset, self.config)

    @cached_property
    def units(self) -> tuple[str, ...]:
        return evenly_chosen(self.dataset.sequence_names, self.config.max_pairs)

    def predict(self, unit: str) -> Record:
        sample = self.dataset.open_sequence(unit).load([0, 1])
        if sample.tracks is None:
            raise InputError(f"{sample.place()}: no keypoints")
        size_px = self.config.size_px
        keypoints = []
        maps = []
        for side, image in enumerate(sample.images):
            height, width = image.shape[:2]
            marked = np.concatenate([sample.tracks.points_px[side], sample.tracks.visible[side][:, None]], axis=1).astype(np.float64)
            keypoints.append(letterbox_keypoints(marked, width, height, size_px)[0])
            maps.append(self.features.step(Frame(letterboxed(image, size_px), side + 1)))
        source, target = maps
        if source.grid != target.grid:
            raise InputError(f"{sample.place()}: the extractor gives maps on grids {source.grid} and {target.grid} for images of one size")
        errors_px = keypoint_errors(source.descriptors.float(), target.descriptors.float(), np.stack(keypoints), source.grid, size_px)
        return {"category": sample.text, "errors_px": errors_px, "size_px": size_px}


def letterboxed(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """The image scaled into a black square and centred, where `letterbox_keypoints` moves its keypoints."""
    height, width = image.shape[:2]
    _, (left, top), scale = letterbox_keypoints(np.zeros((0, 3)), width, height, size_px)
    size = (round(width * scale), round(height * scale))
    square = np.zeros((size_px, size_px, 3), np.uint8)
    square[top : top + size[1], left : left + size[0]] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return square


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """PCK of each category, and their weighted mean."""
    sizes = {record["size_px"] for record in records.values()}
    assert len(sizes) == 1, sizes
    errors: dict[str, NDArray[np.float64]] = {}
    for category in sorted({record["category"] for record in records.values()}):
        errors[category] = np.concatenate([floats(record["errors_px"]) for record in records.values() if record["category"] == category])
    with_points = {category: values for category, values in errors.items() if len(values)}
    if not with_points:
        raise InputError("pf_pascal: no pair has a keypoint that is visible in both images; nothing can be scored")
    found = score_categories(with_points, sizes.pop())
    names = [f"pck_{100 * alpha:g}_percent" for alpha in found.alphas]
    rows: list[dict[str, str | int | float]] = [
        {"category": category, "num_keypoints": len(errors[category]), **dict(zip(names, (100 * shares).tolist(), strict=True))}
        for category, shares in found.by_category.items()
    ]
    summary = {**dict(zip(names, (100 * found.weighted).tolist(), strict=True)), "num_pairs": len(records)}
    series = [Line(f"PCK@{alpha:g}", (), [float(row[name]) for row in rows]) for alpha, name in zip(found.alphas, names, strict=True)]
    return BenchmarkScore(
        summary, names[1], rows, {"by_category.png": bar_plot([str(row["category"]) for row in rows], series, "PCK (%)", (0.0, 100.0))}
    )
