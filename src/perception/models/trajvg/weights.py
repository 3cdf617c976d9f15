"""Checkpoints of TrajVG: the network with the weights of a file."""

from __future__ import annotations

from pathlib import Path

from perception.models.networks import create_network
from perception.models.trajvg.config import TrajVGConfig, trajvg_released
from perception.models.trajvg.network import TrajVG


def load_trajvg(path: Path | str, config: TrajVGConfig | None = None) -> TrajVG:
    """The network with the weights of a .safetensors or torch file, ready to run; float16 weights become float32.

    config: by default that of the public checkpoint, whose token layout no file says; give your own for a network that you trained.
    Raises WeightsError that names the file when it is damaged, holds another architecture or another size than `config`.
    """
    network = create_network("trajvg", config or trajvg_released(), path)
    assert isinstance(network, TrajVG)
    return network
