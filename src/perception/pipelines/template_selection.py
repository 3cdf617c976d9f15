"""Which views of an object are worth matching: a bag of visual words, so that the cost of a frame does not grow with the number of views.

Descriptors are assigned to the words of a small vocabulary made from the object itself; views are ranked by the weighted words that they share
with the frame (tf-idf with square-rooted counts, Sivic and Zisserman, ICCV 2003).
"""

from __future__ import annotations

import torch

from perception.ops.clustering import assign, kmeans
from perception.pipelines.object_database import ObjectDatabase

_TRAINING_DESCRIPTORS = 20_000


def build_vocabulary(descriptors: torch.Tensor, view_starts: torch.Tensor, num_words: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words (words, dim) float16 and the weight of each word in each view (views, words) float32, rows of unit length.

    descriptors (num, dim) sorted by view; view_starts (views + 1,).
    """
    generator = torch.Generator().manual_seed(seed)
    subset = torch.randperm(len(descriptors), generator=generator)[:_TRAINING_DESCRIPTORS]
    words = kmeans(descriptors[subset].float(), min(num_words, len(subset)), num_iterations=10, seed=seed)
    word_of = assign(descriptors.float(), words)
    num_views = len(view_starts) - 1
    view_of = torch.repeat_interleave(torch.arange(num_views), view_starts.diff())
    counts = torch.zeros(num_views * len(words)).index_add_(0, view_of * len(words) + word_of, torch.ones(len(word_of))).view(num_views, len(words))
    inverse_document_frequency = torch.log((1 + num_views) / (1 + (counts > 0).sum(0))) + 1e-3
    weights = torch.nn.functional.normalize(counts.sqrt() * inverse_document_frequency, dim=1)
    return words.half(), weights


def rank_views(database: ObjectDatabase, descriptors: torch.Tensor) -> torch.Tensor:
    """Similarity of the frame's descriptors (num, dim) to each view (views,) in [0, 1], higher is more alike."""
    if len(descriptors) == 0:
        return torch.zeros(database.num_views)
    word_of = assign(descriptors.float(), database.vocabulary.float())
    counts = torch.bincount(word_of, minlength=len(database.vocabulary)).float()
    inverse_document_frequency = torch.log((1 + database.num_views) / (1 + (database.view_words > 0).sum(0))) + 1e-3
    return database.view_words @ torch.nn.functional.normalize(counts.sqrt() * inverse_document_frequency, dim=0)


def nearest_views(database: ObjectDatabase, camera_from_object: torch.Tensor, num: int) -> torch.Tensor:
    """The `num` views whose viewpoint is closest to a pose: position of the camera in the object frame in units of the distance to the object's
    centre, plus the rotation angle between the poses in radians. Returns view numbers (num,)."""
    center = database.bounds.double().mean(0)

    def viewpoint(pose: torch.Tensor) -> torch.Tensor:
        return -(pose[..., :3, :3].transpose(-1, -2) @ pose[..., :3, 3:]).squeeze(-1)

    position = viewpoint(camera_from_object)
    extent = (database.bounds[1] - database.bounds[0]).norm().double()
    distance = torch.maximum((position - center).norm(), 0.5 * extent)
    trace = (database.camera_from_object[:, :3, :3] * camera_from_object[:3, :3]).sum((1, 2))
    angle = torch.arccos(((trace - 1) / 2).clamp(-1, 1))
    cost = (viewpoint(database.camera_from_object) - position).norm(dim=1) / distance + angle
    return cost.argsort(stable=True)[: min(num, database.num_views)]
