"""All dense extractors by name. A factory is resolved when it is asked for, so that nothing heavy is imported before."""

from __future__ import annotations

from importlib import import_module

from perception.core.errors import unknown_name
from perception.models.extractor import Extractor, ExtractorConfig
from perception.models.vit_zoo import VARIANTS

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
    return extractor
