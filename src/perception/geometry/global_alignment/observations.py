"""What is aligned: for pairs of images, the point maps of both in the axes of the first image's camera, with confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perception.core.errors import InputError

Edge = tuple[int, int]
Maps = Tensor | Sequence[Tensor]
"""One map for each pair: a tensor (pairs, height, width, …), or one (height, width, …) for each pair where sizes differ."""


@dataclass(frozen=True, eq=False)
class PairObservations:
    """Point maps of pairs of images; pixels are flattened and padded to those of the largest image.

    edges: (i, j) per pair · sizes: (height, width) per image · points (2, pairs, pixels, 3): those of image i, then those of image j, both in
    camera i's axes and of a scale of the pair's own · confidence (2, pairs, pixels), from 1 upwards; 1 where padded, masked or not finite.
    """

    edges: tuple[Edge, ...]
    sizes: tuple[tuple[int, int], ...]
    points: Tensor
    confidence: Tensor

    @property
    def num_images(self) -> int:
        return len(self.sizes)

    @property
    def images(self) -> Tensor:
        """(2, pairs): the image that each side shows."""
        return torch.tensor(self.edges, device=self.points.device).T.contiguous()

    @property
    def num_pixels(self) -> Tensor:
        """(images,): pixels of each image without padding."""
        return torch.tensor([height * width for height, width in self.sizes], device=self.points.device)

    def weights(self) -> Tensor:
        """(2, pairs, pixels): log of the confidence, divided by the pixels of all pairs on that side."""
        areas = self.num_pixels[self.images].sum(1).to(self.points.dtype)
        return self.confidence.log() / areas[:, None, None]

    def pixels(self) -> Tensor:
        """(images, pixels, 2): x and y of every pixel, centres at integers; 0 where padded."""
        grid = self.points.new_zeros(self.num_images, self.points.shape[2], 2)
        for row, (height, width) in zip(grid, self.sizes, strict=True):
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            row[: height * width] = torch.stack([x, y], -1).view(-1, 2).to(row)
        return grid

    def image_confidence(self) -> Tensor:
        """(images, pixels): the best confidence of any pair; 0 where padded."""
        best = self.confidence.new_zeros(self.num_images, self.confidence.shape[2])
        for side, image in enumerate(self.images.flatten().tolist()):
            best[image] = torch.maximum(best[image], self.confidence.flatten(0, 1)[side])
        return best * (torch.arange(best.shape[1], device=best.device) < self.num_pixels[:, None])

    def unflatten(self, values: Tensor) -> list[Tensor]:
        """values (images, pixels, …) → one map (height, width, …) for each image."""
        return [row[: height * width].unflatten(0, (height, width)) for row, (height, width) in zip(values, self.sizes, strict=True)]

    def thinned(self, step: int) -> PairObservations:
        """Every `step`-th pixel of every `step`-th row: what cameras with images, focal lengths and principal points 1 / step as large would see."""
        sizes = tuple((-(-height // step), -(-width // step)) for height, width in self.sizes)
        num_pixels = max(height * width for height, width in sizes)
        points = self.points.new_zeros(2, len(self.edges), num_pixels, 3)
        confidence = self.confidence.new_ones(2, len(self.edges), num_pixels)
        for number, edge in enumerate(self.edges):
            for side, image in enumerate(edge):
                (height, width), (rows, cols) = self.sizes[image], sizes[image]
                for kept, values in ((points, self.points), (confidence, self.confidence)):
                    grid = values[side, number, : height * width].unflatten(0, (height, width))
                    kept[side, number, : rows * cols] = grid[::step, ::step].flatten(0, 1)
        return PairObservations(self.edges, sizes, points, confidence)


def pair_observations(
    edges: Sequence[Edge], points1: Maps, confidence1: Maps, points2: Maps, confidence2: Maps, masks: Sequence[Tensor] | None = None
) -> PairObservations:
    """Observations from a network's maps of pairs (i, j), as `DUSt3R.predict_pairs` gives them.

    points1, confidence1: of images i · points2, confidence2: of images j. masks: one (height, width) bool for each image, False where the pixel must
    not count (moving things, sky). Points that are not finite do not count. Raises InputError when shapes, indices or masks do not fit.
    """
    edges = tuple((int(i), int(j)) for i, j in edges)
    num_images = _check_edges(edges)
    sizes = _sizes(edges, num_images, points1, points2)
    _check_maps(edges, sizes, (points1, points2), (confidence1, confidence2), masks)
    num_pixels = max(height * width for height, width in sizes)
    first = points1[0]
    points = torch.zeros(2, len(edges), num_pixels, 3, device=first.device)
    confidence = torch.ones(2, len(edges), num_pixels, device=first.device)
    for side, (maps, weights) in enumerate(((points1, confidence1), (points2, confidence2))):
        for number, edge in enumerate(edges):
            flat, weight = maps[number].detach().reshape(-1, 3).float(), weights[number].detach().flatten().float()
            usable = torch.isfinite(flat).all(-1) & torch.isfinite(weight)
            if masks is not None:
                usable &= masks[edge[side]].flatten().to(usable)
            points[side, number, : len(flat)] = torch.where(usable[:, None], flat, 0)
            confidence[side, number, : len(flat)] = torch.where(usable, weight.clamp(min=1), 1)
    return PairObservations(edges, sizes, points, confidence)


def _check_edges(edges: tuple[Edge, ...]) -> int:
    found = {index for edge in edges for index in edge}
    if not edges or found != set(range(len(found))) or any(i == j for i, j in edges) or len(set(edges)) != len(edges):
        raise InputError(f"pairs {list(edges)[:8]}: must be pairs of different images, each pair once, that name every image from 0 without gaps")
    return len(found)


def _sizes(edges: tuple[Edge, ...], num_images: int, points1: Maps, points2: Maps) -> tuple[tuple[int, int], ...]:
    sizes: list[tuple[int, int] | None] = [None] * num_images
    for maps in (points1, points2):
        if len(maps) != len(edges):
            raise InputError(f"point maps of {len(maps)} pairs for {len(edges)} pairs of images; must be equally many")
    for number, edge in enumerate(edges):
        for image, maps in zip(edge, (points1, points2), strict=True):
            if maps[number].ndim != 3 or maps[number].shape[-1] != 3 or not maps[number].numel():
                raise InputError(f"point map of image {image} in pair {edge}: has shape {tuple(maps[number].shape)}; must be (height, width, 3)")
            size = (int(maps[number].shape[0]), int(maps[number].shape[1]))
            if sizes[image] not in (None, size):
                raise InputError(f"point map of image {image} in pair {edge}: is {size}, in another pair {sizes[image]}; must be the same everywhere")
            sizes[image] = size
    return tuple(size for size in sizes if size is not None)


def _check_maps(
    edges: tuple[Edge, ...],
    sizes: tuple[tuple[int, int], ...],
    points: tuple[Maps, Maps],
    confidence: tuple[Maps, Maps],
    masks: Sequence[Tensor] | None,
) -> None:
    for side, (maps, weights) in enumerate(zip(points, confidence, strict=True)):
        if len(weights) != len(edges):
            raise InputError(f"confidences of {len(weights)} pairs for {len(edges)} pairs of images; must be equally many")
        for number, edge in enumerate(edges):
            if weights[number].shape != maps[number].shape[:-1]:
                place = f"confidence of image {edge[side]} in pair {edge}"
                raise InputError(f"{place}: has shape {tuple(weights[number].shape)}; must be {tuple(maps[number].shape[:-1])}")
    if masks is not None and [tuple(mask.shape) for mask in masks] != list(sizes):
        raise InputError(f"masks of shapes {[tuple(mask.shape) for mask in masks]}: must be {list(sizes)}, one for each image")
