"""DUSt3R (Wang et al., "DUSt3R: Geometric 3D vision made easy", CVPR 2024) and CroCo v2, on whose weights it stands: our own networks.

They read the public checkpoints (CC BY-NC-SA 4.0). Layout, constants and order of operations follow naver/dust3r at 4c24a6e and naver/croco at
d7de070; the code is written from these facts.
"""

from perception.models.dust3r.config import DecoderConfig, DUSt3RConfig, dpt, linear, tiny
from perception.models.dust3r.croco import CroCo, Encoder
from perception.models.dust3r.decoders import ClipDecoder, PairDecoder
from perception.models.dust3r.heads import PointMap, make_head, read_head
from perception.models.dust3r.images import PreparedImage, prepare_image, prepare_images
from perception.models.dust3r.network import DUSt3R, PairHeads, PairPointMaps
from perception.models.dust3r.reconstruction import reconstruct
from perception.models.dust3r.weights import from_public, start_from_croco, to_public

__all__ = [
    "ClipDecoder",
    "CroCo",
    "DUSt3R",
    "DUSt3RConfig",
    "DecoderConfig",
    "Encoder",
    "PairDecoder",
    "PairHeads",
    "PairPointMaps",
    "PointMap",
    "PreparedImage",
    "dpt",
    "from_public",
    "linear",
    "make_head",
    "prepare_image",
    "prepare_images",
    "read_head",
    "reconstruct",
    "start_from_croco",
    "tiny",
    "to_public",
]
