"""STDiT of OpenSora 1.0: our own network, which reads the public checkpoints key for key.

Layout, constants and order of operations follow hpcaitech/Open-Sora at v1.0.0 (Apache-2.0); the code is written from these facts. The model card is
models/cards/stdit.md.
"""

from perception.models.stdit.config import OPENSORA_16X256X256, OPENSORA_16X512X512, StditConfig
from perception.models.stdit.freezing import FREEZES, freeze
from perception.models.stdit.generation import LATENT_SCALE, generate_latents
from perception.models.stdit.network import Conditioning, Stdit

__all__ = [
    "FREEZES",
    "LATENT_SCALE",
    "OPENSORA_16X256X256",
    "OPENSORA_16X512X512",
    "Conditioning",
    "Stdit",
    "StditConfig",
    "freeze",
    "generate_latents",
]
