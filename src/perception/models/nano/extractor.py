"""nano in the registry of extractors."""

from __future__ import annotations

from pathlib import Path

from perception.core.errors import ConfigError, WeightsError
from perception.models.extractor import ExtractorConfig
from perception.models.nano.network import STRIDE_PX, folded
from perception.models.nano.weights import read_nano
from perception.models.network_extractor import NetworkExtractor
from perception.models.weights import resolve_weights

SHIPPED_WEIGHTS = Path(__file__).parents[1] / "weights" / "nano.safetensors"


def create_nano(config: ExtractorConfig) -> NetworkExtractor:
    """Without `weights` those that ship with the package. Raises WeightsError when there are none or the file is of another network."""
    if config.stride_px not in (0, STRIDE_PX):
        raise ConfigError(f"stride_px = {config.stride_px}: must be 0 or {STRIDE_PX} for nano")
    if not config.weights and not SHIPPED_WEIGHTS.is_file():
        raise WeightsError(f"nano: no weights at {SHIPPED_WEIGHTS}; give a file of `perception-train nano_pretrain` as weights")
    path = resolve_weights(config.weights) if config.weights else SHIPPED_WEIGHTS
    name = f"nano({path.name})" if config.weights else "nano"
    return NetworkExtractor(name, folded(read_nano(path)), config)
