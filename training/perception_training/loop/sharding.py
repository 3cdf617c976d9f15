"""Tensors that FSDP shares out among processes, whole and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor


def as_whole(tensor: Tensor) -> Tensor:
    """The tensor without its graph. One that is shared out is gathered (every rank must call): on the CPU of rank 0, elsewhere it is empty, so that
    no device holds all weights at once."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if dist.get_rank() == 0 else torch.empty(0)


def as_sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, which is whole, shared out as `like` is; as it is when that one is not."""
    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, like.placements)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has shared out this module."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())
