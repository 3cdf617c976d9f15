"""Progress on the terminal: bars while it is one, plain lines when the output goes into a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from perception.core.timing import Stopwatch

_FILE_WIDTH = 130


class Steps:
    """The steps of a command, one line each; a finished step says what came of it and how long it took."""

    def __init__(self, console: Console | None = None) -> None:
        # rich takes 80 columns for a file or a pipe, which is too narrow for the tables.
        self.console = console or (Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH))

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One step: `with steps.step("render") as step: ... step.progress(done, total) ... step.result = "40 frames"`."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        if not self.console.is_terminal:
            self.console.print(f"… {title}", highlight=False)
        watch = Stopwatch()
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            step = Step(progress, progress.add_task(title, total=None), self.console)
            yield step
        outcome = f": {step.result}" if step.result else ""
        self.console.print(f"[green]✓[/green] {title}{outcome} [dim]({watch.lap():.1f} s)[/dim]", highlight=False)


class Step:
    """A running step. `result` is printed when it is done."""

    def __init__(self, progress: Progress, task: TaskID, console: Console) -> None:
        self._progress, self._task, self._console = progress, task, console
        self._last_quarter = 0
        self.result = ""

    def progress(self, done: int, total: int) -> None:
        """How much is done; `total` 0 when it is not known."""
        self._progress.update(self._task, completed=done, total=total or None)
        quarter = 4 * done // total if total else 0
        if not self._console.is_terminal and quarter > self._last_quarter:
            self._last_quarter = quarter
            self._console.print(f"  {done}/{total}", highlight=False)

    def describe(self, text: str) -> None:
        """Say what the step is at now."""
        self._progress.update(self._task, description=text)
