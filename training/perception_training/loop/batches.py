"""Batches of whatever form (a dataclass, a mapping, a sequence, nested): to the device, as named tensors, one sample of it, what the samples are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same batch with `change` applied to its tensors."""
    if isinstance(batch, Tensor):
        return change(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(batch, **{f.name: mapped(getattr(batch, f.name), change) for f in dataclasses.fields(batch) if f.init})
    if isinstance(batch, Mapping):
        return {key: mapped(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(value, change) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(mapped(value, change) for value in batch)
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on `device`; does not wait for the copy where it comes from page-locked memory."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def named_tensors(batch: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """All tensors with a dotted name each."""
    if isinstance(batch, Tensor):
        yield name, batch
        return
    for key, value in _children(batch):
        yield from named_tensors(value, key if name == "batch" else f"{name}.{key}")


def other_values(batch: Any) -> Any:
    """What is no tensor, as JSON takes it: plain values as they are, other objects as text."""
    if isinstance(batch, Tensor):
        return f"tensor {list(batch.shape)} {batch.dtype}"
    if isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields"):
        return [other_values(value) for value in batch]
    children = list(_children(batch))
    if children:
        return {key: other_values(value) for key, value in children}
    return batch if isinstance(batch, (str, int, float, bool, type(None))) else str(batch)


def _children(batch: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        yield from ((f.name, getattr(batch, f.name)) for f in dataclasses.fields(batch))
    elif isinstance(batch, Mapping):
        yield from ((str(key), value) for key, value in batch.items())
    elif isinstance(batch, tuple) and hasattr(batch, "_fields"):
        yield from zip(batch._fields, batch, strict=True)
    elif isinstance(batch, (list, tuple)):
        yield from ((str(number), value) for number, value in enumerate(batch))


def num_samples(batch: Any) -> int:
    """The common first length of all tensors; 0 where there is none, so that the batch cannot be taken apart."""
    lengths = {tensor.shape[0] if tensor.ndim else 0 for _, tensor in named_tensors(batch)}
    return lengths.pop() if len(lengths) == 1 else 0


def one_sample(batch: Any, number: int) -> Any:
    """Sample `number` as a batch of one; tuples and lists with an entry for each sample are cut as well."""
    count = num_samples(batch)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[number : number + 1]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(value, **{f.name: cut(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init})
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            holds_tensors = any(True for _ in named_tensors(value))
            if not holds_tensors:
                return value[number : number + 1] if len(value) == count else value
            return type(value)(*map(cut, value)) if hasattr(value, "_fields") else type(value)(map(cut, value))
        return value

    return cut(batch)


def sample_names(batch: Any) -> list[str]:
    """What the samples are: data set/sequence and frames where the batch says so (`data.collation.Batch`), otherwise nothing."""
    datasets, sequences = getattr(batch, "datasets", None), getattr(batch, "sequences", None)
    frames = getattr(batch, "frame_names", None)
    if not (isinstance(datasets, tuple) and isinstance(sequences, tuple) and isinstance(frames, tuple)):
        return []
    return [f"{dataset}/{sequence} frames {', '.join(names)}" for dataset, sequence, names in zip(datasets, sequences, frames, strict=True)]
