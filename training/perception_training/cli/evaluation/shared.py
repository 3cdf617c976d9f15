"""What the commands of `perception-eval` share: where a run goes, both of its loops, and the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from perception.cli.progress import Steps
from perception.core.errors import ConfigError
from perception_training.benchmarks.image_features import BenchmarkFeatures, features_from_text
from perception_training.benchmarks.running import SCORE_JSON, Benchmark, BenchmarkScore, Row, predict_all, score_folder

_MAX_ROWS, _MAX_COLUMNS = 30, 10


@dataclass(frozen=True)
class RunArguments:
    """Where the results go, and what happens to those of an earlier run."""

    out: Path
    """Folder of predictions, scores and pictures. A run that was stopped goes on there."""
    restart: bool = False
    """Throw away what an earlier run predicted there."""
    skip_bad: bool = False
    """Go on after data that cannot be read; they are counted in the score, and named in predictions.jsonl."""


def run_benchmark(benchmark: Benchmark, arguments: RunArguments) -> int:
    """Predict what is missing, score from the file, print the table and where everything lies."""
    steps = Steps()
    with steps.step(f"predict {len(benchmark.units)} units of {benchmark.name}") as step:
        records = predict_all(benchmark, arguments.out, restart=arguments.restart, skip_bad=arguments.skip_bad, progress=step.progress)
        step.result = f"{len(records.records)} in {records.path}"
    show_score(score_folder(arguments.out, benchmark.header), steps.console)
    steps.console.print(f"score: {(arguments.out / SCORE_JSON).resolve()}", soft_wrap=True, highlight=False, markup=False)
    return 0


def open_features(texts: Sequence[str]) -> list[BenchmarkFeatures]:
    """Extractors from words such as `dense_sift,sift_size_px=16`."""
    if not texts:
        raise ConfigError("--extractors: none is given; must be at least one, such as dense_sift,sift_size_px=16")
    return [BenchmarkFeatures(features_from_text(text)) for text in texts]


def show_score(score: BenchmarkScore, console: Console) -> None:
    """The rows where they are few and narrow, and the summary."""
    if 1 < len(score.rows) <= _MAX_ROWS and len(score.rows[0]) <= _MAX_COLUMNS:
        table = Table(*score.rows[0])
        for row in score.rows:
            table.add_row(*(_shown(value) for value in row.values()))
        console.print(table)
    summary = Table("figure", "value")
    for name, value in score.summary.items():
        summary.add_row(name, _shown(value))
    console.print(summary)


def _shown(value: Row | str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
