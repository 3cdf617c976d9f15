"""All dense extractors by name. A factory is resolved when it is asked for, so that nothing heavy is imported before."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from perception.core.errors import ConfigError, WeightsError, unknown_name
from perception.models.extractor import Extractor, ExtractorConfig
from perception.models.vit_zoo import VARIANTS
from perception.models.weights import file_sha256

_HASH_LENGTH = 8

EXTRACTORS: dict[str, str] = {
    "dense_sift": "perception.models.dense_sift:create_dense_sift",
    "dense_sift_opencv": "perception.models.dense_sift:create_dense_sift_opencv",
    "alike_t": "perception.models.alike:create_alike",
    "alike_n": "perception.models.alike:create_alike",
    "nano": "perception.models.nano:create_nano",
    "tiny_nano": "perception.models.nano:create_nano",
    **dict.fromkeys(VARIANTS, "perception.models.vit:create_vit"),
}
"""Name → "module:factory"; a factory takes an ExtractorConfig and returns an Extractor."""


def create_extractor(config: ExtractorConfig) -> Extractor:
    """The extractor that `config` names, with its weights loaded."""
    if config.extractor not in EXTRACTORS:
        raise unknown_name("extractor", config.extractor, EXTRACTORS)
    module, factory = EXTRACTORS[config.extractor].split(":")
    extractor: Extractor = getattr(import_module(module), factory)(config)
    return _adapted(extractor, config) if config.adapter else extractor


def _adapted(extractor: Extractor, config: ExtractorConfig) -> Extractor:
    """The same network with an adapter, whose file and hash go into the name: its descriptors match no others."""
    from perception.models.adapter import apply_adapter, read_adapter
    from perception.models.network_extractor import NetworkExtractor

    if not isinstance(extractor, NetworkExtractor):
        raise ConfigError(
            f"adapter = {config.adapter!r}: {config.extractor} has no network that could take it; such are {', '.join(network_names())}"
        )
    path = Path(config.adapter).expanduser()
    adapter = read_adapter(path)
    if adapter.extractor not in ("", config.extractor, extractor.name):
        raise WeightsError(f"adapter {path}: was made for {adapter.extractor}; extractor is {extractor.name}: must be the same")
    name = f"{extractor.name}+{path.name}:{file_sha256(path)[:_HASH_LENGTH]}"
    return NetworkExtractor(name, apply_adapter(extractor.network, adapter, f"adapter {path}"), config)


def network_names() -> tuple[str, ...]:
    """Those that are networks, which can be trained and adapted; the others are filters."""
    return tuple(name for name, factory in EXTRACTORS.items() if not factory.startswith("perception.models.dense_sift:"))
