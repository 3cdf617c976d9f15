"""nano in the registry of extractors."""

from __future__ import annotations

from pathlib import Path

import torch

from perception.core.errors import ConfigError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.nano.network import STRIDE_PX, NanoConfig, NanoNetwork, folded
from perception.models.nano.weights import read_nano
from perception.models.network_extractor import NetworkExtractor
from perception.models.weights import resolve_weights

SHIPPED_WEIGHTS = Path(__file__).parents[1] / "weights" / "nano.safetensors"
_TINY = NanoConfig(dim=32, widths=(16, 16, 24), depths=(1, 1, 1), pyramid=16)


def create_nano(config: ExtractorConfig) -> NetworkExtractor:
    """`nano` and, random and thin for tests, `tiny_nano`. Without `weights` those that ship with the package.

    Raises WeightsError when there are none or the file is of another network.
    """
    if config.stride_px not in (0, STRIDE_PX):
        raise ConfigError(f"stride_px = {config.stride_px}: must be 0 or {STRIDE_PX} for nano")
    if config.extractor == "tiny_nano" and not config.weights:
        return NetworkExtractor(config.extractor, folded(_random_network(_TINY)), config)
    if not config.weights and not SHIPPED_WEIGHTS.is_file():
        raise WeightsError(f"nano: no weights at {SHIPPED_WEIGHTS}; give a file of `perception-train nano_pretrain` as weights")
    path = resolve_weights(config.weights) if config.weights else SHIPPED_WEIGHTS
    name = f"{config.extractor}({path.name})" if config.weights else config.extractor
    return NetworkExtractor(name, folded(read_nano(path)), config)


def _random_network(config: NanoConfig) -> NanoNetwork:
    """The same weights every time, and torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NanoNetwork(config)
