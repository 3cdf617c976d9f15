"""Weights files of nano: safetensors whose metadata hold the sizes of the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perception.core.config import from_mapping, to_mapping
from perception.core.errors import ConfigError, WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.nano.network import NanoConfig, NanoNetwork, folded
from perception.models.weights import load_into

FORMAT = "perception nano 1"


def write_nano(path: Path, config: NanoConfig, weights: Mapping[str, Tensor]) -> None:
    """Write the state (`state_dict()`) of a network, folded or not, kernels in float16 and the few other numbers in float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {
        name: tensor.detach().cpu().to(torch.float16 if tensor.ndim == 4 else torch.float32).contiguous()
        for name, tensor in weights.items()
        if not name.endswith(".num_batches_tracked")
    }
    save_file(stored, path, {"format": FORMAT, "config": json.dumps(to_mapping(config))})


def read_nano(path: Path) -> NanoNetwork:
    """The network with its weights, in float32, folded if it was folded when it was written.

    Raises WeightsError for a file that is not one of nano or does not fit the sizes it names.
    """
    tensors = read_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"weights {path}: must be a safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"weights {path}: format {metadata.get('format')!r} in its metadata; must be {FORMAT!r}, as `nano_pretrain` writes it")
    try:
        config = from_mapping(NanoConfig, json.loads(metadata["config"]), "config")
    except (KeyError, ValueError, ConfigError) as error:
        raise WeightsError(f"weights {path}: its metadata name no sizes of a nano network ({error})") from error
    network = NanoNetwork(config)
    if not any(".norm." in name for name in tensors):
        network = folded(network)
    counters = tuple(name for name in network.state_dict() if name.endswith(".num_batches_tracked"))
    load_into(network, tensors, str(path), optional=counters)
    return network.eval()
