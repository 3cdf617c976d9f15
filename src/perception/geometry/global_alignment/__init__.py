"""Global alignment: one scene from the point maps that a network gave for pairs of its images (DUSt3R, Wang et al., CVPR 2024).

Objective, start and conventions are DUSt3R's (`cloud_opt`, naver/dust3r at 4c24a6e); the optimiser is our own. `align` for any number of images,
`pair_scene` for two; which pairs to make is said by `perception.geometry.scene_graph`.
"""

from perception.geometry.global_alignment.alignment import AlignedScene, AlignmentConfig, align, pair_scene
from perception.geometry.global_alignment.cameras import KnownCameras
from perception.geometry.global_alignment.observations import PairObservations, pair_observations
from perception.geometry.global_alignment.scene import Scene, alignment_loss

__all__ = [
    "AlignedScene",
    "AlignmentConfig",
    "KnownCameras",
    "PairObservations",
    "Scene",
    "align",
    "alignment_loss",
    "pair_observations",
    "pair_scene",
]
