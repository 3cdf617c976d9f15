"""The two loops of every benchmark: `predict_all` computes and writes predictions, `score_folder` makes all figures from that file alone."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

from perception.core.config import Checked, to_mapping
from perception.core.errors import InputError, unknown_name
from perception.evaluation.predictions import write_atomically
from perception.evaluation.provenance import Header
from perception.evaluation.score import rows_as_csv
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.records import FILE, SKIPPED, Record, RecordFile, read_records
from perception_training.data.sequences import Dataset

SCORE_FORMAT = "perception-benchmark-score"
SCORE_JSON, SCORE_CSV = "score.json", "score.csv"

SCORERS: dict[str, str] = {
    "bop": "bop_pose",
    "clutter_pose": "clutter_pose",
    "correspondence": "correspondence",
    "one_shot_pose": "one_shot_pose",
    "pf_pascal": "pf_pascal_pairs",
    "real_matching": "real_matching",
    "scene_pose": "scene_pose",
    "tapvid_davis": "tapvid_davis",
}
"""Benchmark → module with `score(records) -> BenchmarkScore`."""

Row = Mapping[str, str | int | float]


@dataclass(frozen=True, eq=False)
class BenchmarkScore:
    """All figures of a run.

    summary: name → figure over everything, unit in the name · headline: which of the summary a comparison of tasks takes · rows: one mapping of
    equal keys for each sequence, category or extractor · figures: file name → PNG.
    """

    summary: Mapping[str, float]
    headline: str
    rows: Sequence[Row]
    figures: Mapping[str, bytes] = field(default_factory=dict)


class Benchmark(ABC):
    """A published protocol on a copy of its data.

    `units` are predicted one by one, in any order, by `predict`, which returns plain values and arrays. Nothing that a score needs may stay outside.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def header(self) -> Header:
        """Everything that the predictions depend on."""

    @property
    @abstractmethod
    def units(self) -> tuple[str, ...]:
        """What is predicted, in order."""

    @abstractmethod
    def predict(self, unit: str) -> Record:
        """The record of one unit. Raises InputError that names the file when its data are bad."""


def benchmark_header(name: str, features: BenchmarkFeatures, settings: Mapping[str, Any], source: str) -> Header:
    """Header of predictions that one extractor made here and now. source: what they were made from, see `listing_identity`."""
    return Header.here({"benchmark": name, "label": features.label, **features.identity(), "settings": settings}, source)


def dataset_header(name: str, features: BenchmarkFeatures, dataset: Dataset, config: Checked) -> Header:
    """As `benchmark_header`, of a data set with the options of its reader and the settings of the benchmark."""
    settings = {"data": dataset.name, "reader": to_mapping(dataset.options), **to_mapping(config)}
    return benchmark_header(name, features, settings, listing_identity(dataset.name, dataset.root, dataset.sequence_names))


class Compared(Protocol):
    """Something that is compared in a table: an extractor or a method."""

    @property
    def label(self) -> str:
        """Name in tables and plots."""

    def identity(self) -> dict[str, Any]:
        """What its answers depend on."""


def compared_header(name: str, features: Sequence[Compared], settings: Mapping[str, Any], source: str) -> Header:
    """As `benchmark_header`, for several extractors or methods that are compared in one run."""
    extractors = {item.label: item.identity() for item in features}
    return Header.here({"benchmark": name, "label": ", ".join(extractors), "extractors": extractors, "settings": settings}, source)


def listing_identity(name: str, root: Path, listed: Sequence[str]) -> str:
    """What a data set is recognised by: its name, folder, and the names of its sequences. Hashing all images of a large set would take hours."""
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]
    return f"{name} {root.resolve().name} ({len(listed)} sequences, sha256 of their names {digest})"


def evenly_chosen(names: Sequence[str], max_num: int) -> tuple[str, ...]:
    """At most `max_num` of the names, evenly spaced; 0: all."""
    if not max_num or len(names) <= max_num:
        return tuple(names)
    return tuple(names[index * len(names) // max_num] for index in range(max_num))


def predict_all(
    benchmark: Benchmark,
    out: Path,
    *,
    restart: bool = False,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RecordFile:
    """Predict all units that have no record yet, each written when it is done.

    With `skip_bad` a unit whose data are bad gets a record that says why, and the run goes on.
    """
    records = RecordFile(out / FILE, benchmark.header, benchmark.units, restart)
    missing = records.missing
    num_done = len(records.units) - len(missing)
    for done, unit in enumerate(missing, num_done + 1):
        try:
            record = benchmark.predict(unit)
        except InputError as error:
            if not skip_bad:
                raise
            record = {SKIPPED: str(error)}
        records.add(unit, record)
        if progress is not None:
            progress(done, len(records.units))
    return records


def score_folder(out: Path, expected: Header | None = None, allow_partial: bool = False) -> BenchmarkScore:
    """Score the predictions in a folder, and write score.json, score.csv and the figures beside them.

    Raises InputError for predictions of another setup than `expected`, and for an unfinished run unless `allow_partial`.
    """
    header, units, records = read_records(out / FILE, expected)
    if len(records) < len(units) and not allow_partial:
        raise InputError(
            f"{out / FILE}: {len(records)} of {len(units)} units are predicted; run the same command again, or score with --allow-partial"
        )
    good = {unit: record for unit, record in records.items() if SKIPPED not in record}
    if not good:
        raise InputError(f"{out / FILE}: no unit could be predicted; the first says: {next(iter(records.values()), {}).get(SKIPPED, 'nothing')}")
    benchmark = header.config.get("benchmark", "")
    if benchmark not in SCORERS:
        raise unknown_name(f"{out / FILE}: benchmark", str(benchmark), SCORERS)
    score: BenchmarkScore = import_module(f"perception_training.benchmarks.{SCORERS[benchmark]}").score(good)
    write_score(score, out, header, len(units), len(good), len(records) - len(good))
    return score


def write_score(score: BenchmarkScore, out: Path, header: Header, num_units: int, num_predicted: int, num_skipped: int) -> None:
    """score.json (everything, with the header of the predictions), score.csv (the rows) and the figures."""
    content = {
        "format": SCORE_FORMAT,
        "benchmark": header.config["benchmark"],
        "label": header.config["label"],
        "headline": score.headline,
        "summary": _finite(score.summary),
        "num_units": num_units,
        "num_predicted": num_predicted,
        "num_skipped": num_skipped,
        "rows": [_finite(row) for row in score.rows],
        "predictions": {"fingerprint": header.fingerprint, **header.to_mapping()},
    }
    write_atomically(out / SCORE_JSON, json.dumps(content, indent=1) + "\n")
    write_atomically(out / SCORE_CSV, rows_as_csv(score.rows))
    for name, png in score.figures.items():
        write_atomically(out / name, png)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}
