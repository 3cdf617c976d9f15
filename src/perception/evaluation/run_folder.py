"""What lies where in the folder of one run, so that a report can be written again from it alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from perception.core.errors import InputError
from perception.evaluation.metrics.pose import Position
from perception.evaluation.predictions import write_atomically

PREDICTIONS_FILE = "predictions.jsonl"
TRUTH_FILE = "truth.jsonl"
PICTURES_FOLDER = "pictures"
OUTPUT_BAG = "output"
REPORT_FILE = "report.html"
_DESCRIPTION_FILE = "run.json"


@dataclass(frozen=True)
class RunDescription:
    """What people want to know of a run and no figure says.

    title, summary: head of the report · command: how to do it again · position: whose position the error is of, see `metrics.pose`.
    """

    title: str = "Perception run"
    summary: str = ""
    command: str = ""
    position: Position = "object"

    def write(self, folder: str | Path) -> None:
        """Into `run.json`."""
        write_atomically(Path(folder) / _DESCRIPTION_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> RunDescription:
        """From `run.json`; the defaults when there is none."""
        path = Path(folder) / _DESCRIPTION_FILE
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text())
            return cls(**{field.name: str(values[field.name]) for field in fields(cls)})  # type: ignore[arg-type]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not the description of a run ({type(error).__name__}: {error})") from error
