"""The published networks as small as they get, in the parts that are exported: of the same form, and made in a moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from perception.models.cotracker3 import CoTracker3Config
from perception.models.dust3r import tiny as tiny_dust3r
from perception.models.graph_part import GraphPart
from perception.models.jog3r import tiny as tiny_jog3r
from perception.models.network_graphs import fill_zeros, network_parts
from perception.models.networks import create_network
from perception.models.pi3 import Pi3Config
from perception.models.pi3.config import BackboneConfig
from perception.models.trajvg import TrajVGConfig, trajvg_tiny

BACKBONE = BackboneConfig(dim=32, num_heads=2, encoder_depth=1, decoder_depth=2, image_px=56)
PI3 = Pi3Config(backbone=BACKBONE, head_dim=32, head_num_heads=2, head_depth=1, camera_dim=16)
TRAJVG: TrajVGConfig = replace(trajvg_tiny(), backbone=BACKBONE, head_dim=32, head_num_heads=2, camera_dim=16, feature_pairs=(0, 0, 0, 0))
DUST3R = replace(tiny_dust3r(), enc_depth=1, dec_depth=1)
COTRACKER3 = CoTracker3Config(feature_dim=16, hidden_dim=16, num_heads=2, num_virtual_tracks=4, time_depth=1, space_depth=1, window_frames=8)
NETWORKS_AND_SIZES: dict[str, tuple[str, Any, tuple[int, int], str]] = {
    "pi3": ("pi3", PI3, (42, 56), "fp16"),
    "trajvg": ("trajvg", TRAJVG, (42, 56), "fp16"),
    "dust3r_linear": ("dust3r_512_linear", DUST3R, (32, 48), "bf16"),
    "dust3r_dpt": ("dust3r_512_dpt", replace(tiny_dust3r("dpt"), enc_depth=1), (32, 48), "fp16"),
    "croco": ("croco_v2", DUST3R, (32, 48), "fp16"),
    "stdit": ("stdit", replace(tiny_jog3r().stdit, depth=1), (32, 32), "fp16"),
    "jog3r": ("jog3r", tiny_jog3r(), (32, 32), "bf16"),
    "cotracker3": ("cotracker3_online", COTRACKER3, (32, 48), "fp16"),
}
"""Name of the case → registered network, sizes, image size and precision of the engine."""


def parts_of(case: str) -> tuple[GraphPart, ...]:
    name, config, size, _ = NETWORKS_AND_SIZES[case]
    torch.manual_seed(0)
    network = create_network(name, config)
    fill_zeros(network)
    return network_parts(name, network, size, case)


def pixels(number: int, size: tuple[int, int]) -> list[torch.Tensor]:
    return list(torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(1)).split(1))
