"""The published reconstruction and video networks by name.

A network of ours in three lines; `weights` is a file, an index.json of shards, or left out for a random start:

    from perception.models.networks import create_network
    network = create_network("dust3r_512_linear", weights="DUSt3R_ViTLarge_BaseDecoder_512_linear.safetensors")
    maps = network(images1, images2)

`config` names one of the configurations of NETWORKS (default: the published one), or is such a configuration itself. What a network takes and gives
is in the docstring of its `forward`; how images are prepared is `NetworkSpec.normalisation`; where weights come from, their licence and what was
checked is in its model card (`network_card`). `perception weights check NAME FILE` compares a file with a network, `perception weights convert`
writes safetensors under the public names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perception.core.errors import ConfigError, unknown_name
from perception.models.weights import load_into

_CC_NC_SA, _CC_NC, _APACHE = "CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", "Apache-2.0"
_UNIT_RANGE, _SIGNED_RANGE = "RGB in [0, 1]; mean and deviation of ImageNet are taken off inside", "RGB in [-1, 1]"

_NAVER = "https://download.europe.naverlabs.com/ComputerVision"


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """A network as data; modules are imported when they are asked for.

    factory: "module:class", called with a configuration · configurations: name → "module:constant" or "module:function without arguments", the
    published one first · to_ours, to_public: "module:function" between the names of public files and ours, both ways; empty where they are the same ·
    optional: names of ours that a file may lack · card: file in models/cards · source: where the weights are published; empty where they are not ·
    licence: of the public weights, SPDX where there is such a name · normalisation: what the network takes.
    """

    factory: str
    configurations: Mapping[str, str]
    card: str
    source: str
    licence: str
    normalisation: str
    to_ours: str = ""
    to_public: str = ""
    optional: tuple[str, ...] = field(default=())


def _dust3r(config: str) -> NetworkSpec:
    return NetworkSpec(
        factory="perception.models.dust3r:DUSt3R",
        configurations={config: f"perception.models.dust3r:{config}"} | ({"tiny": "perception.models.dust3r:tiny"} if config == "linear" else {}),
        card="dust3r.md",
        source=f"{_NAVER}/DUSt3R/",
        licence=_CC_NC_SA,
        normalisation=_SIGNED_RANGE,
        to_ours="perception.models.dust3r.weights:complete_from_public",
        to_public="perception.models.dust3r:to_public",
        optional=("mask_token",),
    )


def _cotracker3(config: str) -> NetworkSpec:
    return NetworkSpec(
        factory="perception.models.cotracker3:CoTracker3",
        configurations={config.lower(): f"perception.models.cotracker3:{config}"},
        card="cotracker3.md",
        source=f"https://huggingface.co/facebook/cotracker3/resolve/main/scaled_{config.lower()}.pth",
        licence=_CC_NC,
        normalisation="RGB in [0, 255], resized to 512x384",
    )


NETWORKS: dict[str, NetworkSpec] = {
    "cotracker3_offline": _cotracker3("OFFLINE"),
    "cotracker3_online": _cotracker3("ONLINE"),
    "croco_v2": NetworkSpec(
        factory="perception.models.dust3r:CroCo",
        configurations={"vitlarge_basedecoder": "perception.models.dust3r:linear", "tiny": "perception.models.dust3r:tiny"},
        card="dust3r.md",
        source=f"{_NAVER}/CroCo/",
        licence=_CC_NC_SA,
        normalisation="RGB in [0, 1] less the mean and deviation of ImageNet",
        to_ours="perception.models.dust3r:from_public",
        to_public="perception.models.dust3r:to_public",
    ),
    "dust3r_224_linear": _dust3r("linear"),
    "dust3r_512_dpt": _dust3r("dpt"),
    "dust3r_512_linear": _dust3r("linear"),
    "jog3r": NetworkSpec(
        factory="perception.models.jog3r:Jog3r",
        configurations={
            "pairs": "perception.models.jog3r:JOG3R",
            "clip": "perception.models.jog3r:JOG3R_CLIP",
            "tiny": "perception.models.jog3r:tiny",
        },
        card="jog3r.md",
        source="",
        licence="no public weights",
        normalisation="latents of stabilityai/sd-vae-ft-ema times 0.18215, captions of DeepFloyd/t5-v1_1-xxl",
    ),
    "pi3": NetworkSpec(
        factory="perception.models.pi3:Pi3",
        configurations={size: f"perception.models.pi3:pi3_{size}" for size in ("large", "base", "small", "tiny")},
        card="pi3.md",
        source="https://huggingface.co/yyfz233/Pi3",
        licence=_CC_NC,
        normalisation=_UNIT_RANGE,
    ),
    "stdit": NetworkSpec(
        factory="perception.models.stdit:Stdit",
        configurations={
            "16x256x256": "perception.models.stdit:OPENSORA_16X256X256",
            "16x512x512": "perception.models.stdit:OPENSORA_16X512X512",
        },
        card="stdit.md",
        source="https://huggingface.co/hpcai-tech/Open-Sora",
        licence=_APACHE,
        normalisation="latents of stabilityai/sd-vae-ft-ema times 0.18215, captions of DeepFloyd/t5-v1_1-xxl",
    ),
    "trajvg": NetworkSpec(
        factory="perception.models.trajvg:TrajVG",
        configurations={size: f"perception.models.trajvg:trajvg_{size}" for size in ("released", "large", "tiny")},
        card="trajvg.md",
        source="https://github.com/xingy038/TrajVG",
        licence="non-commercial",
        normalisation=_UNIT_RANGE,
    ),
}
"""Name → network, in alphabetical order."""


def network_spec(name: str) -> NetworkSpec:
    """The entry of a name; ConfigError that lists the known ones."""
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    return NETWORKS[name]


def network_card(name: str) -> str:
    """The model card (Markdown): source, licence of the public weights, input, what was and was not run."""
    return (files("perception.models") / "cards" / network_spec(name).card).read_text(encoding="utf-8")


def build_network(name: str, config: object = None) -> nn.Module:
    """The network with a random start; `config` as in `create_network`."""
    spec = network_spec(name)
    return resolve(spec.factory)(network_config(name, config))


def network_config(name: str, config: object = None) -> Any:
    """A configuration by its name, the published one without a name, or `config` itself where it is one already."""
    named = network_spec(name).configurations
    if config is None:
        config = next(iter(named))
    if not isinstance(config, str):
        return config
    if config not in named:
        raise ConfigError(f"config = {config!r}: unknown; those of {name} are {', '.join(named)}")
    value = resolve(named[config])
    return value() if callable(value) else value


def create_network(name: str, config: object = None, weights: str | Path | None = None) -> nn.Module:
    """A network, ready to run (`eval`), with the weights of a file or with a random start.

    Raises ConfigError for an unknown name or configuration; WeightsError that says what is wrong with the file, and which network it belongs to when
    it is another one's. Weights of other float types become float32.
    """
    if weights is None:
        return build_network(name, config).eval()
    from perception.models.network_files import read_for

    state = read_for(name, Path(weights).expanduser(), config)
    network = _empty_network(name, config, state)
    load_into(network, state, str(weights), network_spec(name).optional)
    return network.eval()


def _empty_network(name: str, config: object, state: Mapping[str, Tensor]) -> nn.Module:
    """The network without the time and memory of a random start, where the file fills all that it computes with."""
    with torch.device("meta"):
        network = build_network(name, config)
    stored = network.state_dict().keys()
    has_other_tensors = any(isinstance(value, Tensor) for module in network.modules() for value in vars(module).values())
    if has_other_tensors or stored - state.keys() or {buffer for buffer, _ in network.named_buffers()} - stored:
        return build_network(name, config)
    return network.to_empty(device="cpu")


@cache
def resolve(place: str) -> Any:
    """ "module:attribute" → the attribute."""
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)
