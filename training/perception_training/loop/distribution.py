"""One process, or many under torchrun: who we are, how gradients are averaged, what all agree on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from perception.core.errors import ConfigError
from perception_training.loop.config import TrainConfig

_IDLE_S = 0.1
"""gloo's threads need Python's lock to let go of their last tensors; a group that is freed meanwhile, by whoever holds the lock, waits for them for
ever (torch 2.13: three of sixteen runs that ended by an error did)."""


@dataclass(frozen=True)
class Place:
    """This process among all of a run, and its device."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process."""
        if self.world_size == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(bool(value) for value in values.tolist())

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order, in each of them."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        """Go on when every process is here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def joined(config: TrainConfig) -> Iterator[Place]:
    """Join the processes that torchrun started (it sets RANK, LOCAL_RANK and WORLD_SIZE), or be alone. A group that is there already is used."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = choose_device(config.device, int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if config.distribution == "fsdp" and world_size == 1:
        raise ConfigError("TrainConfig.distribution = 'fsdp': needs several processes (torchrun); must be auto or ddp for one")
    starts_group = world_size > 1 and not dist.is_initialized()
    if starts_group:
        is_cuda = device.type == "cuda"
        dist.init_process_group("nccl" if is_cuda else "gloo", device_id=device if is_cuda else None)
    try:
        yield Place(device, rank, world_size)
    finally:
        if starts_group:
            time.sleep(_IDLE_S)
            dist.destroy_process_group()


def choose_device(name: str, local_rank: int) -> torch.device:
    """The device of this process. Raises ConfigError when there is no such GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("TrainConfig.device = 'cuda': torch finds no GPU here; must be auto or cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()} (torchrun --nproc-per-node)")
    return torch.device("cuda", local_rank)


class _Forward(nn.Module):
    """The losses of a task as the forward pass of a module, which is where DistributedDataParallel looks for it."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.module = task.module
        self._task = task
        self.weights: dict[str, float] = {}

    def forward(self, batch: Any) -> dict[str, Tensor]:
        losses = self._task.losses(batch)
        self.weights = {name: weight for name, (weight, _) in losses.items()}
        return {name: value for name, (_, value) in losses.items()}


class Parallel:
    """The forward pass of a task in every process, with gradients averaged over the processes."""

    def __init__(self, task: Any, config: TrainConfig, place: Place) -> None:
        self._forward = _Forward(task)
        self._wrapped: nn.Module = self._forward
        self._sharded = task.module if isinstance(task.module, FSDPModule) else None
        if place.world_size > 1 and self._sharded is None:
            self._wrapped = DistributedDataParallel(self._forward, find_unused_parameters=config.find_unused_parameters)

    def losses(self, batch: Any) -> Mapping[str, tuple[float, Tensor]]:
        """As `Task.losses`."""
        values = self._wrapped(batch)
        return {name: (self._forward.weights[name], value) for name, value in values.items()}

    def accumulating(self, is_last: bool) -> AbstractContextManager[None]:
        """Around forward and backward pass of one batch of a step: gradients are averaged over the processes in the last one only."""
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(is_last)
        elif isinstance(self._wrapped, DistributedDataParallel) and not is_last:
            return self._wrapped.no_sync()
        return nullcontext()


def shard(module: nn.Module, place: Place, dtype: torch.dtype) -> None:
    """Share out the weights of `module` in place (FSDP2): the entries of every ModuleList one by one, which are the blocks of a transformer, then
    the rest. The parameters are other objects afterwards."""
    mesh = init_device_mesh(place.device.type, (place.world_size,))
    policy = MixedPrecisionPolicy() if dtype == torch.float32 else MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    blocks = [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part]
    for block in reversed(blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
