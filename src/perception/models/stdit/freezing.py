"""Which weights of STDiT are trained."""

from __future__ import annotations

from perception.core.errors import ConfigError, unknown_name
from perception.models.stdit.network import Stdit

FREEZES = {"not_temporal": "all but temporal attention", "text": "caption attention"}
"""The freeze options of OpenSora 1.0, and what is frozen."""


def freeze(network: Stdit, option: str, first_trained_block: int = 0) -> None:
    """Freeze part of the network; blocks before `first_trained_block` are frozen whole (JOG3R freezes four).

    Raises ConfigError for an unknown option or a block that is not there.
    """
    if option not in FREEZES:
        raise unknown_name("freeze", option, FREEZES)
    if not 0 <= first_trained_block < network.config.depth:
        raise ConfigError(f"first_trained_block = {first_trained_block}: must lie in [0, {network.config.depth - 1}]")
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        trained = "attn_temp" in parts if option == "not_temporal" else "cross_attn" not in parts
        early = parts[0] == "blocks" and int(parts[1]) < first_trained_block
        parameter.requires_grad_(trained and not early)
