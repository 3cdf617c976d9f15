"""Write report.html, score.json and the tables of a run again, from the files in its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from perception.evaluation.report import write_report
from perception.evaluation.score import score_table


@dataclass(frozen=True)
class Arguments:
    """Which run."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a demo or a replay: it holds predictions.jsonl."""


def run(arguments: Arguments) -> int:
    """Prints the table and the report's path."""
    path, score = write_report(arguments.folder)
    console = Console()
    console.print(score_table(score))
    console.print(f"report: {path.resolve()}", soft_wrap=True, highlight=False)
    return 0
