"""Pi3 (Wang et al., "π³: Permutation-equivariant visual geometry learning", 2025): our own network.

Reads the public checkpoint (yyfz233/Pi3; CC BY-NC 4.0) key for key. Layout, constants and order of operations follow yyfz/Pi3 at 9fa3ddb; the code is
written from these facts.
"""

from perception.models.pi3.backbone import BackboneFeatures, Pi3Backbone
from perception.models.pi3.config import BackboneConfig, Pi3Config, pi3_base, pi3_large, pi3_small, pi3_tiny
from perception.models.pi3.heads import CameraHead, HeadDecoder
from perception.models.pi3.network import Pi3, Pi3Estimate, local_points, to_world
from perception.models.pi3.preprocessing import prepare_images, target_size

__all__ = [
    "BackboneConfig",
    "BackboneFeatures",
    "CameraHead",
    "HeadDecoder",
    "Pi3",
    "Pi3Backbone",
    "Pi3Config",
    "Pi3Estimate",
    "local_points",
    "pi3_base",
    "pi3_large",
    "pi3_small",
    "pi3_tiny",
    "prepare_images",
    "target_size",
    "to_world",
]
