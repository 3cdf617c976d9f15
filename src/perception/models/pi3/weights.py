"""Checkpoints of Pi3: the network with the weights of a file."""

from __future__ import annotations

from pathlib import Path

import torch

from perception.models.pi3.config import Pi3Config
from perception.models.pi3.network import Pi3
from perception.models.weights import load_into, read_state_dict


def load_pi3(path: Path | str, config: Pi3Config | None = None) -> Pi3:
    """The network with the weights of a .safetensors or torch file, ready to run; float16 weights become float32.

    Raises WeightsError that names the file when it is damaged, holds another architecture or another size than `config` (default: the published).
    """
    path = Path(path).expanduser()
    state = read_state_dict(path)
    # Nothing is allocated for the random start: a billion numbers would only be thrown away.
    with torch.device("meta"):
        network = Pi3(config)
    load_into(network.to_empty(device="cpu"), state, str(path))
    return network.eval()
