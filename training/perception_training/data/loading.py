"""Batches of a mixture from worker processes: resumable by step, dealt out to ranks, bounded in memory.

Sample number (step * batch_size + place) * world_size + rank is what this rank gets at `place` of `step`: no two ranks share one, and all ranks
together run through the stream without gaps. Workers send errors as values, so that a message arrives as it was written.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, PerceptionError
from perception_training.data.collation import Batch, collate
from perception_training.data.mixture import Mixture, Skipped
from perception_training.data.worker_processes import begin_worker, worker_context

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(Checked):
    """How batches are made."""

    batch_size: Annotated[int, Range(1)] = 8
    """Samples for each batch of a rank."""
    num_workers: Annotated[int, Range(0)] = 2
    """Processes that read; 0 reads in this one."""
    prefetch: Annotated[int, Range(1)] = 2
    """Batches that each worker may be ahead, which bounds the memory."""
    pin_memory: bool = False
    """Hand batches out in page-locked memory, for a GPU."""
    num_steps: Annotated[int, Range(0)] = 0
    """End after this step; 0 goes on for ever."""


@dataclass(frozen=True)
class _Numbers:
    """The numbers of the samples of one batch after the other; a batch sampler."""

    first_step: int
    num_steps: int
    batch_size: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while self.num_steps == 0 or step < self.num_steps:
            first = step * self.batch_size
            yield [(first + place) * self.world_size + self.rank for place in range(self.batch_size)]
            step += 1


@dataclass(frozen=True)
class _Delivery:
    """What a worker sends: a batch with what was skipped for it, or the error that prevented it."""

    batch: Batch | None
    skipped: tuple[Skipped, ...] = ()
    error: PerceptionError | None = None

    def pin_memory(self) -> _Delivery:
        return _Delivery(self.batch.pin_memory() if self.batch is not None else None, self.skipped, self.error)


class _Numbered(TorchDataset):
    """The mixture as torch sees it: asked for all numbers of a batch at once."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])

    def __getitems__(self, numbers: list[int]) -> _Delivery:
        try:
            drawn = [self._mixture.draw(number) for number in numbers]
            return _Delivery(collate([item.sample for item in drawn]), tuple(entry for item in drawn for entry in item.skipped))
        except PerceptionError as error:
            return _Delivery(None, error=error)


class Loader:
    """Iterate to get batches from `step` on; a second iteration goes on where the first one ended. The workers live as long as an iteration.

    step: number of the next batch, to be stored in a checkpoint · num_bad, num_too_short: samples that were skipped so far, all workers together ·
    skipped: how often for each reason; each reason (it names the file) is logged once.
    """

    def __init__(self, mixture: Mixture, config: LoaderConfig, start_step: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size or start_step < 0:
            raise ConfigError(f"loader: rank {rank} of {world_size} at step {start_step}: rank must lie in [0, {world_size}), step be 0 or more")
        self.config, self.step = config, start_step
        self._mixture, self._rank, self._world_size = mixture, rank, world_size
        self.skipped: Counter[Skipped] = Counter()
        self._count(mixture.skipped_at_start)

    @property
    def num_bad(self) -> int:
        """Samples that could not be read."""
        return sum(count for entry, count in self.skipped.items() if entry.is_bad)

    @property
    def num_too_short(self) -> int:
        """Samples whose sequence has too few frames that fit."""
        return sum(count for entry, count in self.skipped.items() if not entry.is_bad)

    def __iter__(self) -> Iterator[Batch]:
        config = self.config
        numbers = _Numbers(self.step, config.num_steps, config.batch_size, self._rank, self._world_size)
        has_workers = config.num_workers > 0
        loader: DataLoader = DataLoader(
            _Numbered(self._mixture),
            batch_sampler=numbers,  # type: ignore[arg-type]
            num_workers=config.num_workers,
            collate_fn=_as_is,
            pin_memory=config.pin_memory,
            prefetch_factor=config.prefetch if has_workers else None,
            worker_init_fn=begin_worker if has_workers else None,
            multiprocessing_context=worker_context(__name__) if has_workers else None,
        )
        for delivery in loader:
            if delivery.error is not None:
                raise delivery.error
            self._count(delivery.skipped)
            self.step += 1
            assert delivery.batch is not None
            yield delivery.batch

    def _count(self, skipped: tuple[Skipped, ...]) -> None:
        for entry in skipped:
            if entry not in self.skipped:
                _LOGGER.warning("%s sample of %s left out: %s", "bad" if entry.is_bad else "too short", entry.source, entry.reason)
            self.skipped[entry] += 1


def make_loader(mixture: Mixture, config: LoaderConfig | None = None, start_step: int = 0, rank: int = 0, world_size: int = 1) -> Loader:
    """Batches of `mixture` for one rank, from `start_step` on."""
    return Loader(mixture, config if config is not None else LoaderConfig(), start_step, rank, world_size)


def _as_is(delivery: Any) -> Any:
    """Batches are collated in `_Numbered`, where errors are caught."""
    return delivery
