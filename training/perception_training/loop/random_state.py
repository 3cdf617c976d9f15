"""The state of all random generators of a process as tensors."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy's global generator and torch (all devices) from these numbers, each differently."""
    seeds = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(int(seeds[2]) << 32 | int(seeds[3]))


def random_state() -> dict[str, Tensor]:
    """State of Python's, NumPy's and torch's generators, of the current GPU too where CUDA is in use."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {
        "python": torch.tensor([version, *words]),
        "python_gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_position": torch.tensor([position, has_gauss]),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].item()
    random.setstate((version, tuple(words), None if math.isnan(gauss) else gauss))
    position, has_gauss = state["numpy_position"].tolist()
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), position, has_gauss, state["numpy_gauss"].item()))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is drawn inside does not change what is drawn after."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
