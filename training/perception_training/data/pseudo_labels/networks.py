"""What trackers by networks have in common: where they run, and which checkpoint they use."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from perception.core.errors import ConfigError, WeightsError

_BLOCK_BYTES = 1 << 20


def chosen_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one. Raises ConfigError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': no GPU can be used here; allowed: auto, cpu")
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def file_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint. Raises WeightsError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
