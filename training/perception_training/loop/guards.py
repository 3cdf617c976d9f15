"""What stops a run, said in one sentence: numbers that are not finite, and a device without memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perception.core.errors import PerceptionError
from perception.evaluation.predictions import write_atomically
from perception_training.loop.batches import named_tensors, num_samples, one_sample, other_values, sample_names
from perception_training.loop.config import TrainConfig
from perception_training.loop.tensor_files import write_tensors

_NUM_NAMED = 4


class TrainingError(PerceptionError):
    """A run cannot go on."""


@dataclass(frozen=True, eq=False)
class Culprit:
    """A batch of a step that gave numbers that are not finite, and which of its samples do so alone (empty: none does, or it cannot be cut)."""

    batch: Any
    samples: tuple[int, ...] = ()


def is_memory_error(error: BaseException) -> bool:
    """Whether this says that a device has no memory left."""
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "out of memory" in text)
    )


def out_of_memory(config: TrainConfig, settings: Sequence[str], device: torch.device, step: int, dtype: torch.dtype) -> TrainingError:
    """Which settings lower the memory of a step. settings: those that the task names."""
    knobs = []
    if config.batch_size > 1:
        knobs.append(f"train.batch_size = {config.batch_size} with train.accumulation = {config.accumulation} raised by as much")
    if dtype == torch.float32:
        knobs.append("train.precision = bfloat16")
    knobs.append(" or ".join(settings) if settings else "the image size")
    if config.distribution != "fsdp":
        knobs.append("train.distribution = fsdp on several GPUs")
    used = ""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        used = f" ({torch.cuda.max_memory_allocated(device) / 2**30:.1f} of {total / 2**30:.1f} GiB in use)"
    return TrainingError(f"step {step}: {device} is out of memory{used}; what lowers it: {'; '.join(knobs)}")


def find_culprits(batches: Sequence[Any], is_finite: Callable[[Any], bool]) -> list[Culprit]:
    """The batches of which `is_finite` says no, each with the samples of which it says no alone."""
    found = []
    for batch in batches:
        count = num_samples(batch)
        alone = tuple(number for number in range(count) if not is_finite(one_sample(batch, number)))
        if alone or not is_finite(batch):
            found.append(Culprit(batch, alone))
    return found


def save_culprit(folder: Path, culprit: Culprit, figures: Mapping[str, Any]) -> str:
    """Write the batch (batch.safetensors; batch.json has names, figures and which samples). Returns the samples as text."""
    names = sample_names(culprit.batch)
    write_tensors(folder / "batch.safetensors", dict(named_tensors(culprit.batch)))
    content = {
        **{key: (value if not isinstance(value, float) or math.isfinite(value) else str(value)) for key, value in figures.items()},
        "samples": list(culprit.samples),
        "names": names,
        "batch": other_values(culprit.batch),
    }
    write_atomically(folder / "batch.json", json.dumps(content, indent=1) + "\n")
    count = num_samples(culprit.batch)
    if culprit.samples:
        named = [f"{number}" + (f" ({names[number]})" if names else "") for number in culprit.samples[:_NUM_NAMED]]
        more = ", …" * (len(culprit.samples) > _NUM_NAMED)
        return f"sample {', '.join(named)}{more} of {count}"
    return f"the batch of {count} samples" + (f" ({'; '.join(names[:_NUM_NAMED])}{'; …' * (len(names) > _NUM_NAMED)})" if names else "")
