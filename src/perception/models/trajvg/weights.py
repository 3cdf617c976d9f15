"""Checkpoints of TrajVG: the network with the weights of a file."""

from __future__ import annotations

from pathlib import Path

import torch

from perception.models.trajvg.config import TrajVGConfig, trajvg_released
from perception.models.trajvg.network import TrajVG
from perception.models.weights import load_into, read_state_dict


def load_trajvg(path: Path | str, config: TrajVGConfig | None = None) -> TrajVG:
    """The network with the weights of a .safetensors or torch file, ready to run; float16 weights become float32.

    config: by default that of the public checkpoint, whose token layout no file says; give your own for a network that you trained.
    Raises WeightsError that names the file when it is damaged, holds another architecture or another size than `config`.
    """
    path = Path(path).expanduser()
    state = read_state_dict(path)
    with torch.device("meta"):
        network = TrajVG(config or trajvg_released())
    load_into(network.to_empty(device="cpu"), state, str(path))
    return network.eval()
