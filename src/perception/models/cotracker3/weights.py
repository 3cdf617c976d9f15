"""Checkpoints of CoTracker3: the network of a variant with the weights of a file."""

from __future__ import annotations

from pathlib import Path

from perception.core.errors import WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.cotracker3.config import CoTracker3Config
from perception.models.cotracker3.network import CoTracker3
from perception.models.weights import load_into


def load_cotracker3(path: Path, config: CoTracker3Config) -> CoTracker3:
    """The network with the weights of a .pth or .safetensors file, ready to run.

    Raises WeightsError that names the file when it is damaged, holds another architecture, or another variant (offline or online).
    """
    state = read_tensors(path)
    stored = state.get("time_emb")
    if stored is not None and stored.ndim == 3 and stored.shape[1] != config.window_frames:
        raise WeightsError(
            f"weights {path}: made for windows of {stored.shape[1]} frames, the network has {config.window_frames}; "
            "scaled_offline.pth has 60 (offline), scaled_online.pth 16 (online)"
        )
    network = CoTracker3(config)
    load_into(network, state, str(path))
    return network.eval()
