"""APE of several extractors against their score in each task: a plot and Spearman's rank correlation, from score.json files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from perception.evaluation.predictions import write_atomically
from perception.evaluation.score import rows_as_csv
from perception_training.benchmarks.correlation import correlate
from perception_training.cli.evaluation.shared import show_score


@dataclass(frozen=True)
class Arguments:
    """Which scores."""

    scores: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """score.json files, or the folders of runs; those of `correspondence` give APE, all others are tasks."""
    out: Path
    """Folder of the plot and the table."""
    ape_data: str = ""
    """Data set whose APE is taken, where scores of several are given."""


def run(arguments: Arguments) -> int:
    """Prints the table and the path of the plot."""
    score, console = correlate(arguments.scores, arguments.ape_data), Console()
    write_atomically(arguments.out / "correlation.csv", rows_as_csv(score.rows))
    for name, png in score.figures.items():
        write_atomically(arguments.out / name, png)
        console.print(f"plot: {(arguments.out / name).resolve()}", soft_wrap=True, highlight=False, markup=False)
    show_score(score, console)
    return 0
