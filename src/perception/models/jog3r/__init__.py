"""JOG3R (Huang et al., "JOG3R: Towards 3D-consistent video generators"): OpenSora's video network, stitched to the decoders of DUSt3R.

There is no public code and there are no public weights: sizes and the place of the stitch are the paper's; what it leaves open is named where it is
decided. The model card is models/cards/jog3r.md.
"""

from perception.models.jog3r.config import JOG3R, JOG3R_CLIP, Jog3rConfig, tiny
from perception.models.jog3r.network import ClipHead, Jog3r, Jog3rOutput, Reconstruction
from perception.models.jog3r.reconstruction import reconstruct_clip

__all__ = ["JOG3R", "JOG3R_CLIP", "ClipHead", "Jog3r", "Jog3rConfig", "Jog3rOutput", "Reconstruction", "reconstruct_clip", "tiny"]
