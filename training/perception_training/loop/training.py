"""A whole run: build the task of a recipe, train it, and keep what a run folder keeps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from perception.core.config import to_mapping
from perception.core.errors import InputError
from perception.core.timing import Stopwatch
from perception_training.loop.checkpoints import latest_checkpoint, module_tensors, save_checkpoint
from perception_training.loop.config import TrainConfig
from perception_training.loop.distribution import Place, joined
from perception_training.loop.logs import Display, Log
from perception_training.loop.random_state import seed_all
from perception_training.loop.run_folder import RunFolder
from perception_training.loop.task import Recipe, Task
from perception_training.loop.trainer import StepFigures, Trainer


@dataclass(frozen=True, eq=False)
class TrainResult:
    """What came of a run: its folder, the trained task, figures of the last step (None when nothing was left to do), evaluations by step."""

    folder: Path
    task: Task
    last: StepFigures | None = None
    evaluations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def train(recipe: Recipe, name: str = "run") -> TrainResult:
    """Train what `recipe` describes. Under torchrun every process calls this, and the run folder lies where all machines see it.

    Raises PerceptionError for what a user can mend; KeyboardInterrupt or SystemExit after a signal, when a checkpoint of the last step is written.
    """
    config = recipe.train
    folder = RunFolder(Path(config.out or f"runs/{name}"))
    with joined(config) as place:
        checkpoint = latest_checkpoint(folder.checkpoints)
        if checkpoint is not None and not config.resume:
            raise InputError(
                f"run folder {folder.root}: holds a run at step {checkpoint.step}; must be empty (--train.out DIR), or go on with it (--train.resume)"
            )
        _check_all_see(checkpoint.step if checkpoint is not None else 0, folder, place)
        seed_all(config.seed)
        task = recipe.build()
        if checkpoint is None:
            task.begin()
        trainer = Trainer(task, config, place)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        if place.is_first:
            folder.describe_start(name, to_mapping(recipe), trainer.step, place)  # type: ignore[arg-type]
        try:
            return _Run(trainer, folder).go()
        finally:
            trainer.close()


def _check_all_see(step: int, folder: RunFolder, place: Place) -> None:
    """Also lets nobody write before all have looked."""
    steps = place.gather(step)
    if len(set(steps)) > 1:
        raise InputError(f"run folder {folder.root}: the processes see checkpoints of steps {sorted(set(steps))}; must be on a disk that all share")


class _Run:
    """The loop around the steps of a trainer."""

    def __init__(self, trainer: Trainer, folder: RunFolder) -> None:
        self.trainer, self.folder = trainer, folder
        self.config: TrainConfig = trainer.config
        self.place: Place = trainer.place
        self.first = trainer.step
        self.evaluations: dict[int, Mapping[str, float]] = {}
        self._num_timed, self._train_s, self._data_s = 0, 0.0, 0.0
        self._log: Log | None = None

    def go(self) -> TrainResult:
        config = self.config
        self._log = Log(self.folder.log, self.folder.tensorboard, self.first) if self.place.is_first else None
        last: StepFigures | None = None
        try:
            with Display(self.first, config.steps, is_shown=self.place.is_first) as display, _stopping() as signals:
                self._say_start(display)
                if self.first == 0 and 0 in config.evaluate_at:
                    self._evaluate(display)
                while self.trainer.step < config.steps:
                    last = self._step(display)
                    if any(self.place.any(bool(signals))):
                        self._save()
                        display.say(f"stopped after step {self.trainer.step}; --train.resume goes on from there")
                        break
                else:
                    self._export(display)
        finally:
            if self._log is not None:
                self._log.close()
        if signals:
            raise KeyboardInterrupt if signals[0] == signal.SIGINT else SystemExit(128 + signals[0])
        return TrainResult(self.folder.root, self.trainer.task, last, self.evaluations)

    def _say_start(self, display: Display) -> None:
        trained = sum(parameter.numel() for parameter in self.trainer.task.module.parameters() if parameter.requires_grad)
        processes = f", {self.place.world_size} processes" if self.place.world_size > 1 else ""
        kind = str(self.trainer.dtype).removeprefix("torch.")
        start = f" from step {self.first}" if self.first else ""
        display.say(f"{self.folder.root}: {trained:,} weights, {self.config.steps} steps{start} on {self.place.device} in {kind}{processes}")

    def _step(self, display: Display) -> StepFigures:
        """A step and what is due after it."""
        config = self.config
        watch = Stopwatch()
        figures = self.trainer.run_step(self.folder)
        step = self.trainer.step
        self._num_timed += 1
        self._train_s += watch.lap()
        self._data_s += figures.data_s
        display.advance(step)
        is_last = step == config.steps
        if step == 1 or is_last or step % config.log_every == 0:
            self._report(step, figures, display)
        if is_last or step % config.checkpoint_every == 0:
            self._save()  # first, so that an evaluation that fails costs no training
        if is_last or step in config.evaluate_at or (config.evaluate_every and step % config.evaluate_every == 0):
            self._evaluate(display)
        return figures

    def _report(self, step: int, figures: StepFigures, display: Display) -> None:
        """The figures of this step, losses as means over all processes, and the mean pace since the last report."""
        gathered = self.place.gather((figures.loss, dict(figures.losses)))
        names = sorted({name for _, losses in gathered for name in losses})
        losses = {name: _mean([terms[name] for _, terms in gathered if name in terms]) for name in names}
        step_s = self._train_s / self._num_timed
        line: dict[str, Any] = {
            "loss": _mean([loss for loss, _ in gathered]),
            "losses": losses,
            "gradient_norm": figures.gradient_norm,
            "learning_rate": figures.learning_rate,
            "step_s": step_s,
            "data_s": self._data_s / self._num_timed,
            "samples_per_s": self.config.batch_size * self.config.accumulation * self.place.world_size / step_s,
        }
        if self.place.device.type == "cuda":
            line["memory_gib"] = torch.cuda.max_memory_allocated(self.place.device) / 2**30
        self._num_timed, self._train_s, self._data_s = 0, 0.0, 0.0
        if self._log is not None:
            self._log.write(step, line)
        display.figures(step, line)

    def _evaluate(self, display: Display) -> None:
        watch = Stopwatch()
        with self.trainer.for_use():
            figures = {name: float(value) for name, value in self.trainer.task.evaluate(self.trainer.step).items()}
        self.place.wait_for_all()
        if figures:
            self.evaluations[self.trainer.step] = figures
            if self._log is not None:
                self._log.write(self.trainer.step, {"evaluation": figures})
            values = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            display.say(f"step {self.trainer.step}/{self.config.steps}  evaluation: {values} ({watch.lap():.1f} s)")

    def _save(self) -> None:
        files, state = self.trainer.checkpoint_files()
        if self.place.is_first:
            save_checkpoint(self.folder.checkpoints, self.trainer.step, files, state, self.config.keep)
        self.place.wait_for_all()

    def _export(self, display: Display) -> None:
        with self.trainer.for_use():
            weights = module_tensors(self.trainer.task.module)
            if self.place.is_first:
                copies = {name: value.to("cpu", copy=True) for name, value in weights.items()}  # the module gets its own weights back afterwards
                self.folder.export.mkdir(parents=True, exist_ok=True)
                self.trainer.task.export(self.folder.export, copies)
                display.say(f"done after step {self.trainer.step}: {self.folder.export}")
        self.place.wait_for_all()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """The signals (Ctrl-C, SIGTERM) that came while this lasts, so that a step is finished and saved; the second one acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for kind in (signal.SIGINT, signal.SIGTERM):
        previous[kind] = signal.signal(kind, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
