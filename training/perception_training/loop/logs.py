"""Figures of a run: lines of JSON, TensorBoard, and the terminal."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from perception.core.errors import InputError
from perception.core.timing import Stopwatch
from perception.evaluation.predictions import write_atomically

_FILE_WIDTH = 160


def forget_steps_after(path: Path, step: int) -> None:
    """Remove the lines of later steps than `step` from a log (they are about to be done again), and a line that a killed run did not finish."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, "".join(line + "\n" for line in kept))


class Log:
    """log.jsonl and TensorBoard. A value that is not finite is null in the former."""

    def __init__(self, path: Path, tensorboard: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        forget_steps_after(path, step)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a")
            self._board: Any = SummaryWriter(str(tensorboard), purge_step=step + 1)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise InputError(f"log {path}: cannot be written ({error.strerror})") from error

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """One line; nested mappings become "outer/inner" in TensorBoard."""
        try:
            self._file.write(json.dumps({"step": step, **_finite(figures)}) + "\n")
            self._file.flush()
            for name, value in _flat(figures):
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise InputError(f"log {self._file.name}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Flush and close both."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
            self._board.close()


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _finite(value) if isinstance(value, Mapping) else (None if isinstance(value, float) and not math.isfinite(value) else value)
        for name, value in figures.items()
    }


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        found.extend(_flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else [(prefix + name, float(value))])
    return found


class Display:
    """The terminal: a bar with the time left and the losses; plain lines where the output is no terminal; nothing on other ranks than the first."""

    def __init__(self, first_step: int, steps: int, *, is_shown: bool, console: Console | None = None) -> None:
        self.console = console or (Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH))
        self._is_shown, self._first, self._steps = is_shown, first_step, steps
        self._watch, self._elapsed_s = Stopwatch(), 0.0
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not (is_shown and self.console.is_terminal))
        self._task = self._progress.add_task("", total=steps, completed=first_step)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self._progress.update(self._task, completed=step)

    def figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """The losses after `step` steps."""
        self._elapsed_s += self._watch.lap()
        terms = figures["losses"]
        text = f"loss {figures['loss']:.4g}"
        if len(terms) > 1:
            text += f" ({', '.join(f'{name} {value:.4g}' for name, value in terms.items())})"
        text += f"  {figures['samples_per_s']:.3g} samples/s"
        self._progress.update(self._task, description=text)
        if self._is_shown and not self.console.is_terminal:
            left_s = self._elapsed_s / max(1, step - self._first) * (self._steps - step)
            self._print(f"step {step}/{self._steps}  {text}  {duration(left_s)} left")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._is_shown:
            self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """As h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
