"""Make the scores and pictures of a run again, from its predictions.jsonl alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from perception_training.benchmarks.running import score_folder
from perception_training.cli.evaluation.shared import show_score


@dataclass(frozen=True)
class Arguments:
    """Which run."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder that holds predictions.jsonl."""
    allow_partial: bool = False
    """Score an unfinished run."""


def run(arguments: Arguments) -> int:
    """Prints the table."""
    show_score(score_folder(arguments.folder, allow_partial=arguments.allow_partial), Console())
    return 0
