"""Steps: batches in, gradients over all processes, a step of the optimiser, and everything that is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from perception.core.config import to_mapping
from perception.core.errors import ConfigError
from perception.core.timing import Stopwatch
from perception_training.loop.batches import to_device
from perception_training.loop.checkpoints import Checkpoint, frozen_names, load_module, module_tensors
from perception_training.loop.config import TrainConfig
from perception_training.loop.distribution import Parallel, Place, shard
from perception_training.loop.guards import TrainingError, find_culprits, is_memory_error, out_of_memory, save_culprit
from perception_training.loop.optimisers import load_optimiser, make_optimiser, optimiser_tensors, set_rates
from perception_training.loop.parameter_groups import check_groups
from perception_training.loop.precision import compute_dtype, prepare_torch
from perception_training.loop.random_state import random_state, restore_random_state, seed_all, undisturbed
from perception_training.loop.run_folder import RunFolder
from perception_training.loop.running_mean import RunningMean
from perception_training.loop.sharding import is_sharded
from perception_training.loop.task import Losses, Task


@dataclass(frozen=True)
class StepFigures:
    """What a step was like on this rank: weighted sum, terms (means over its batches), norm of the mean gradient over all ranks before clipping,
    learning rate, seconds waited for data."""

    loss: float
    losses: Mapping[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    data_s: float = 0.0

    def is_finite(self) -> bool:
        """Whether all of it is."""
        return all(map(math.isfinite, (self.loss, self.gradient_norm, *self.losses.values())))


class Trainer:
    """The state of training one task: weights, optimiser, running mean, place in the data."""

    def __init__(self, task: Task, config: TrainConfig, place: Place) -> None:
        """Moves the task to the device. Raises ConfigError when its parameter groups do not fit."""
        self.task, self.config, self.place = task, config, place
        prepare_torch(config)
        self.dtype = compute_dtype(config, place.device)
        self.step = 0
        """Optimiser steps done."""
        self._frozen = frozen_names(task.module, task.saved_frozen)
        with self._memory_guard():
            task.module.to(place.device)
            if config.distribution == "fsdp":
                shard(task.module, place, self.dtype)
            groups = task.parameter_groups()
            check_groups(task.module, groups)
            self.optimiser = make_optimiser(config, groups)
            self.running_mean = RunningMean(task.module, config.ema_decay, config.ema_warm_up) if config.ema_decay > 0 else None
            self._parallel = Parallel(task, config, place)
        self._parameters = [parameter for group in groups for parameter in group.parameters]
        self._data: Iterator[Any] | None = None
        self._first: list[Any] = []
        seed_all(config.seed, place.rank)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint. Raises WeightsError when it is of another architecture, ConfigError when the data would go on differently."""
        here, there = self._stream(), checkpoint.state["stream"]
        if here != there:
            raise ConfigError(f"{checkpoint.folder}: was made with {_listed(there)}, now {_listed(here)}: must be equal, or the data would change")
        place = str(checkpoint.folder)
        load_module(self.task.module, checkpoint.tensors("weights"), place, self._frozen)
        load_optimiser(self.optimiser, self.task.module, checkpoint.tensors("optimiser"), place)
        if self.running_mean is not None:
            # A run that only now begins to keep a mean begins with the weights.
            names = set(self.running_mean.tensors())
            weights = {name: value for name, value in checkpoint.tensors("weights").items() if name in names}
            self.running_mean.load(checkpoint.tensors("running_mean") if checkpoint.has("running_mean") else weights, place)
        self.step = checkpoint.step
        self._restore_random(checkpoint)

    def _restore_random(self, checkpoint: Checkpoint) -> None:
        self._open_data()  # torch's DataLoader draws from the generators when it starts, which a run that was not interrupted does not do here
        own = f"rank{self.place.rank}/"
        state = {name.removeprefix(own): value for name, value in checkpoint.tensors("random").items() if name.startswith(own)}
        if checkpoint.state["world_size"] == self.place.world_size and state:
            restore_random_state(state)
        else:
            seed_all(self.config.seed, self.place.rank, self.step)

    def checkpoint_files(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Files of tensors and the plain state for `save_checkpoint`; every rank must call."""
        files = {
            "weights": module_tensors(self.task.module, self._frozen),
            "optimiser": optimiser_tensors(self.optimiser, self.task.module),
        }
        if self.running_mean is not None:
            files["running_mean"] = self.running_mean.tensors()
        states = self.place.gather(random_state())
        files["random"] = {f"rank{rank}/{name}": value for rank, state in enumerate(states) for name, value in state.items()}
        state = {"stream": self._stream(), "world_size": self.place.world_size, "train": to_mapping(self.config)}
        return files, state

    def _stream(self) -> dict[str, int]:
        """What fixes the samples of a step."""
        samples = self.config.batch_size * self.config.accumulation * self.place.world_size
        return {"seed": self.config.seed, "samples_per_step": samples}

    def _open_data(self) -> None:
        start = self.step * self.config.accumulation
        self._data = iter(self.task.data(start, self.place.rank, self.place.world_size))
        self._first = [self._next_batch()]

    def _next_batch(self) -> Any:
        assert self._data is not None
        try:
            return next(self._data)
        except StopIteration:
            raise TrainingError(f"step {self.step + 1}: the data has ended; must go on for {self.config.steps} steps") from None

    def close(self) -> None:
        """Let go of the processes that read data, and of those that train with us (their group must not outlive this in a traceback)."""
        del self._parallel
        close: Callable[[], None] | None = getattr(self._data, "close", None)
        if close is not None:
            close()
        self._data = None

    def run_step(self, folder: RunFolder) -> StepFigures:
        """One step of the optimiser. Raises TrainingError, and leaves the weights as they were, when a number is not finite (its batch lies in
        `folder.not_finite` then) or memory runs out."""
        watch = Stopwatch()
        if self._data is None:
            self._open_data()
        batches = self._first + [self._next_batch() for _ in range(self.config.accumulation - len(self._first))]
        self._first = []
        data_s = watch.lap()
        with self._memory_guard():
            self.task.module.train()
            learning_rate = set_rates(self.optimiser, self.config, self.step)
            self.optimiser.zero_grad(set_to_none=True)
            terms = [self._backward(batch, is_last=number == len(batches) - 1) for number, batch in enumerate(batches)]
            norm = self._clip()
            figures = self._read(terms, norm, learning_rate, data_s)
            if any(self.place.any(not figures.is_finite())):
                self._stop_at(batches, figures, folder)
            self.optimiser.step()
            if self.running_mean is not None:
                self.running_mean.update(self.step)
            self.step += 1
            with torch.no_grad():
                self.task.after_step(self.step)
        return figures

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _backward(self, batch: Any, is_last: bool) -> dict[str, tuple[float, Tensor]]:
        """Add the gradient of one batch; its terms, without their graph."""
        with self._parallel.accumulating(is_last):
            with self._autocast():
                losses = self._parallel.losses(to_device(batch, self.place.device))
            (_total(losses) / self.config.accumulation).backward()  # type: ignore[no-untyped-call]
        return {name: (weight, value.detach()) for name, (weight, value) in losses.items()}

    def _clip(self) -> Tensor:
        """The norm of the gradient, before it is scaled down to `clip_norm`."""
        norm = get_total_norm([parameter.grad for parameter in self._parameters if parameter.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.config.clip_norm > 0:
            clip_grads_with_norm_(self._parameters, self.config.clip_norm, norm)
        return norm

    def _read(self, terms: list[dict[str, tuple[float, Tensor]]], norm: Tensor, learning_rate: float, data_s: float) -> StepFigures:
        """All figures in one transfer from the device, because each waits for it."""
        keys = [(name, weight) for batch in terms for name, (weight, _) in batch.items()]
        values = torch.stack([norm.double(), *(value.double() for batch in terms for _, value in batch.values())]).tolist()
        losses: dict[str, float] = {}
        loss = 0.0
        for (name, weight), value in zip(keys, values[1:], strict=True):
            losses[name] = losses.get(name, 0.0) + value / len(terms)
            loss += weight * value / len(terms)
        return StepFigures(loss, losses, values[0], learning_rate, data_s)

    def _stop_at(self, batches: list[Any], figures: StepFigures, folder: RunFolder) -> None:
        """Save the batches that are to blame and say which they are, whichever rank has them."""
        sharded = is_sharded(self.task.module)  # then a pass needs all ranks, and a batch cannot be tried alone
        with undisturbed():
            culprits = find_culprits(batches, lambda batch: False if sharded else self._is_finite(batch))
        self.optimiser.zero_grad(set_to_none=True)
        terms = {**figures.losses, "gradient norm": figures.gradient_norm}
        texts = []
        for number, culprit in enumerate(culprits):
            target = folder.not_finite / f"step_{self.step + 1:08d}_rank_{self.place.rank}_batch_{number}"
            what = save_culprit(target, culprit, {"step": self.step + 1, "rank": self.place.rank, **terms})
            values = ", ".join(f"{name} = {value:.4g}" for name, value in terms.items())
            rank = f" of rank {self.place.rank}" if self.place.world_size > 1 else ""
            texts.append(f"{what}{rank} ({values}), saved in {target}")
        # All ranks wait until all have saved: the first one that ends takes the others with it.
        found = [text for rank_texts in self.place.gather(texts) for text in rank_texts]
        cause = f"comes from {'; '.join(found)}" if found else "every batch alone is finite: look at what the step adds up"
        raise TrainingError(f"step {self.step + 1}: loss or gradient is not finite; {cause}")

    def _is_finite(self, batch: Any) -> bool:
        """Whether loss and gradient of this batch alone are. Leaves `.grad` alone, whose hooks would wait for other ranks."""
        with self._autocast():
            losses = self.task.losses(to_device(batch, self.place.device))
        gradients = torch.autograd.grad(_total(losses), self._parameters, allow_unused=True)
        found = (*(value for _, value in losses.values()), *(gradient for gradient in gradients if gradient is not None))
        return all(bool(value.isfinite().all()) for value in found)

    @contextmanager
    def for_use(self) -> Iterator[None]:
        """Evaluation mode, the running mean as weights, autocast, no gradients; random draws inside change nothing outside."""
        with ExitStack() as stack:
            stack.enter_context(undisturbed())
            if self.running_mean is not None:
                stack.enter_context(self.running_mean.in_place())
            stack.enter_context(torch.no_grad())
            stack.enter_context(self._autocast())
            stack.enter_context(self._memory_guard())
            self.task.module.eval()
            try:
                yield
            finally:
                self.task.module.train()

    @contextmanager
    def _memory_guard(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            settings = self.task.memory_settings
            raise out_of_memory(self.config, settings, self.place.device, self.step + 1, self.dtype) from error


def _total(losses: Losses) -> Tensor:
    """The weighted sum of all terms."""
    if not losses:
        raise ConfigError("the task gave no loss; must be at least one")
    total: Tensor | None = None
    for name, (weight, value) in losses.items():
        if weight == 0:
            raise ConfigError(f"loss {name}: weight 0: must be another number (leave the term out)")
        term = weight * value
        total = term if total is None else total + term
    assert total is not None
    if total.ndim or not total.requires_grad:
        raise ConfigError(f"losses {', '.join(losses)}: must be numbers that depend on what is trained, are of shape {list(total.shape)}")
    return total


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
