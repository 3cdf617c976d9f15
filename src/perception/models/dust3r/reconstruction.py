"""From a few images to a scene: pairs, point maps, alignment."""

from __future__ import annotations

from torch import Tensor

from perception.core.errors import InputError
from perception.geometry.global_alignment import AlignedScene, AlignmentConfig, KnownCameras, align, pair_observations, pair_scene
from perception.geometry.scene_graph import image_pairs
from perception.models.dust3r.network import DUSt3R


def reconstruct(
    network: DUSt3R, images: Tensor, graph: str = "complete", *, known: KnownCameras | None = None, config: AlignmentConfig | None = None
) -> AlignedScene:
    """The scene of images (frames, 3, height, width) in [-1, 1] (`prepare_images`): cameras, focal lengths, depths and confidences.

    graph: which pairs are looked at (`perception.geometry.scene_graph`), both ways round. Two images are not refined. known: see `KnownCameras`; in
    pixels of the prepared images. Raises InputError for fewer than two images.
    """
    if len(images) < 2:
        raise InputError(f"DUSt3R's reconstruction: {len(images)} image(s); must be at least two")
    edges = image_pairs(len(images), graph)
    observations = pair_observations(edges, *network.predict_pairs(images, edges))
    return pair_scene(observations, known) if len(images) == 2 else align(observations, known, config)
