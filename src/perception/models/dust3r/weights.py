"""Checkpoints of DUSt3R and CroCo v2: names, what they leave out, and where training starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from perception.models.dust3r.network import DUSt3R
from perception.models.network_files import read_for
from perception.models.weights import load_into

Value = TypeVar("Value")

_ENCODER_KEY = re.compile(r"(patch_embed|enc_blocks|enc_norm)\.")
_ALIAS_KEY = re.compile(r"(.*\.scratch\.)layer_rn\.(\d)\.weight")
_LEVEL_KEY = re.compile(r"(.*\.scratch\.)layer(\d)_rn\.weight")
_DECODER, _SECOND_DECODER = "dec_blocks.", "dec_blocks2."
_PRETEXT_PREFIX = "prediction_head."


def from_public(state: Mapping[str, Value]) -> dict[str, Value]:
    """Entries of a public checkpoint (DUSt3R's or CroCo's) under our names."""
    return {f"encoder.{key}" if _ENCODER_KEY.match(key) else key: value for key, value in state.items()}


def to_public(state: Mapping[str, Value]) -> dict[str, Value]:
    """Our entries under the names of the public checkpoints: inverse of `from_public`."""
    return {key.removeprefix("encoder."): value for key, value in state.items()}


def complete_from_public(state: Mapping[str, Value]) -> dict[str, Value]:
    """Entries of a public checkpoint under our names, with what checkpoints may leave out: see `completed`."""
    return completed(from_public(state))


def completed(state: Mapping[str, Value]) -> dict[str, Value]:
    """`state` with what checkpoints may leave out.

    The second decoder starts as a copy of the first where it is absent, as in CroCo's checkpoints. Four convolutions of a DPT head have two names,
    of which files without shared tensors (safetensors) hold one.
    """
    full = dict(state)
    for key, value in state.items():
        if match := _LEVEL_KEY.fullmatch(key):
            full.setdefault(f"{match[1]}layer_rn.{int(match[2]) - 1}.weight", value)
        elif match := _ALIAS_KEY.fullmatch(key):
            full.setdefault(f"{match[1]}layer{int(match[2]) + 1}_rn.weight", value)
    if not any(key.startswith(_SECOND_DECODER) for key in state):
        full |= {_SECOND_DECODER + key.removeprefix(_DECODER): value for key, value in state.items() if key.startswith(_DECODER)}
    return full


def start_from_croco(network: DUSt3R, path: Path | str) -> None:
    """Encoder and both decoders from a checkpoint of CroCo v2, as DUSt3R's training begins; the heads stay as they are.

    WeightsError that names the file as in `networks.create_network`.
    """
    path = Path(path).expanduser()
    state = {key: value for key, value in read_for("croco_v2", path, network.config).items() if not key.startswith(_PRETEXT_PREFIX)}
    heads = tuple(key for key in network.state_dict() if key.startswith("downstream_head"))
    load_into(network, completed(state), str(path), optional=heads)
