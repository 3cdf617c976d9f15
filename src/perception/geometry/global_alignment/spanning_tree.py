"""A first scene: point maps chained along the pairs that the network is surest of."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.alignment import similarity_scale, umeyama
from perception.geometry.global_alignment.cameras import KnownCameras, camera_of_world_points, focal_bounds, focal_of_camera
from perception.geometry.global_alignment.observations import PairObservations
from perception.geometry.global_alignment.scene import Scene

_MIN_PNP_CONFIDENCE = 3.0
_MIN_PIXELS = 6
_SMALLEST_DEPTH = 1e-3
"""Share of an image's middle depth that its depths never fall below."""


def pair_scores(observations: PairObservations) -> Tensor:
    """(pairs,): product of the mean confidences of both sides."""
    sizes = observations.num_pixels[observations.images]
    real = torch.arange(observations.confidence.shape[2], device=sizes.device) < sizes[..., None]
    means = (observations.confidence * real).double().sum(2) / sizes
    return means[0] * means[1]


def maximum_spanning_tree(observations: PairObservations) -> list[int]:
    """Pairs, by number, that connect all images with the best scores, in an order in which each but the first touches an earlier one.

    Raises InputError that names images which no chain of pairs connects with the rest.
    """
    ranked = torch.argsort(pair_scores(observations), descending=True, stable=True).tolist()
    group = list(range(observations.num_images))
    chosen: list[int] = []
    for number in ranked:
        first, second = (group[image] for image in observations.edges[number])
        if first != second:
            group = [first if other == second else other for other in group]
            chosen.append(number)
    apart = [image for image in range(observations.num_images) if group[image] != group[0]]
    if apart:
        raise InputError(f"pairs of images: no chain of pairs leads from image 0 to images {apart[:8]}; add pairs that connect them")
    ordered, done = [chosen[0]], set(observations.edges[chosen.pop(0)])
    while chosen:
        number = next(number for number in chosen if done & set(observations.edges[number]))
        chosen.remove(number)
        ordered.append(number)
        done |= set(observations.edges[number])
    return ordered


def first_scene(observations: PairObservations, known: KnownCameras, base_scale: float | None) -> Scene:
    """Scene (float64) by the maximum spanning tree; where poses are preset, it is moved onto them and its scale follows from them.

    base_scale: see `normalised`; None leaves the scale as it is.
    """
    _check_coverage(observations)
    points, poses = _chained_points(observations)
    assert known.principal_px is not None
    principal = known.principal_px.to(points)
    world_from_camera, focal = _cameras(observations, points, poses, principal, known)
    if known.world_from_camera is not None:
        preset = known.world_from_camera.to(world_from_camera)
        moved = _preset_from_world(world_from_camera, preset)
        points, world_from_camera = se3.transform_points(moved, points), preset
    weights = _procrustes_weights(observations)[0]
    images = observations.images[0]
    world_from_pair = umeyama(observations.points[0].double(), points[images], weights, with_scale=True)
    depth = se3.transform_points(se3.inverse(world_from_camera), points)[..., 2]
    scene = Scene(world_from_camera, focal, principal, positive_depth(depth), world_from_pair)
    return scene if base_scale is None else normalised(scene, base_scale)


def normalised(scene: Scene, base_scale: float) -> Scene:
    """The same scene in another unit: the geometric mean of the pairs' scales becomes `base_scale`."""
    factor = base_scale / similarity_scale(scene.world_from_pair).log().mean().exp()
    cameras, pairs = scene.world_from_camera.clone(), scene.world_from_pair.clone()
    cameras[:, :3, 3] *= factor
    pairs[:, :3] *= factor
    return Scene(cameras, scene.focal_px, scene.principal_px, scene.depth * factor, pairs)


def positive_depth(depth: Tensor) -> Tensor:
    """depth (images, pixels) with a small positive floor where points lie at or behind the camera."""
    middle = torch.where(depth > 0, depth, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(nan=1.0)
    return torch.maximum(depth, _SMALLEST_DEPTH * middle)


def _procrustes_weights(observations: PairObservations) -> Tensor:
    """(2, pairs, pixels) float64: confidence, and 0 for pixels without any (padded, masked)."""
    return observations.confidence.double() * (observations.confidence > 1)


def _check_coverage(observations: PairObservations) -> None:
    few = ((observations.confidence > 1).sum(2) < _MIN_PIXELS).any(0).nonzero().flatten().tolist()
    if few:
        pairs = [observations.edges[number] for number in few[:8]]
        raise InputError(f"pairs {pairs}: fewer than {_MIN_PIXELS} pixels of an image have a confidence above 1; leave them out or mask less")


def _chained_points(observations: PairObservations) -> tuple[Tensor, dict[int, Tensor]]:
    """World points (images, pixels, 3) along the tree, and the poses of images that come first in one of its pairs."""
    weights = _procrustes_weights(observations)
    points = observations.points.new_zeros(observations.num_images, observations.points.shape[2], 3, dtype=torch.float64)
    poses: dict[int, Tensor] = {}
    done: set[int] = set()
    for number in maximum_spanning_tree(observations):
        pair = observations.points[:, number].double()
        images = observations.edges[number]
        world_from_pair = torch.eye(4, dtype=torch.float64, device=points.device)
        if done:
            side = 0 if images[0] in done else 1
            world_from_pair = umeyama(pair[side], points[images[side]], weights[side, number], with_scale=True)
        for image, own in zip(images, pair, strict=True):
            if image not in done:
                points[image] = se3.transform_points(world_from_pair, own)
        poses.setdefault(images[0], _rigid_part(world_from_pair))
        done |= set(images)
    return points, poses


def _rigid_part(similarity: Tensor) -> Tensor:
    """(4, 4) without its scale; the translation stays."""
    rigid = similarity.clone()
    rigid[:3, :3] /= similarity_scale(similarity)
    return rigid


def _cameras(
    observations: PairObservations, points: Tensor, poses: dict[int, Tensor], principal: Tensor, known: KnownCameras
) -> tuple[Tensor, Tensor]:
    """Poses (images, 4, 4) and focal lengths (images,): what the tree gave, focal lengths of each image's best pair, PnP for the other poses.

    Where PnP finds none, as points are too wrong, a pose is that of the image's own best pair."""
    ranked = torch.argsort(pair_scores(observations), descending=True, stable=True).tolist()
    confidence = observations.image_confidence()
    focals: list[float] = []
    for image, size in enumerate(observations.sizes):
        best = next((number for number in ranked if observations.edges[number][0] == image), None)
        focal = None if known.focal_px is None else float(known.focal_px[image])
        if focal is None and best is not None:
            focal = focal_of_camera(observations.points[0, best], observations.confidence[0, best] > 1, size, principal[image])
        if image not in poses:
            usable = confidence[image] > _MIN_PNP_CONFIDENCE
            usable = usable if int(usable.sum()) >= _MIN_PIXELS else confidence[image] > 1
            found = camera_of_world_points(points[image], usable, size, principal[image], focal)
            if found is not None:
                poses[image], focal = found
            elif best is not None:
                weights = _procrustes_weights(observations)[0, best]
                poses[image] = _rigid_part(umeyama(observations.points[0, best].double(), points[image], weights, with_scale=True))
            else:
                raise InputError(f"image {image}: no camera sees its points where its pixels are; leave it out, or add pairs in which it comes first")
        focals.append(focal if focal is not None else sum(focal_bounds(size)) / 2)
    stacked = torch.stack([poses[image] for image in range(observations.num_images)])
    return stacked, torch.tensor(focals, dtype=torch.float64, device=points.device)


def _preset_from_world(found: Tensor, preset: Tensor) -> Tensor:
    """Similarity (4, 4) that moves the found cameras (images, 4, 4) onto the preset ones.

    Beside the centres, points a little along the optical axes take part, so that centres on a line are enough.
    """
    return umeyama(_centres_and_axes(found), _centres_and_axes(preset), with_scale=True)


def _centres_and_axes(poses: Tensor) -> Tensor:
    """(images, 4, 4) → (2 images, 3): centres, and a point of each optical axis near it."""
    centres = poses[:, :3, 3]
    reach = torch.pdist(centres).median() / 100
    return torch.cat([centres, centres + reach * poses[:, :3, 2]])
