"""Which pairs of a collection of images are looked at together: graphs of more or fewer edges (names as in DUSt3R's `image_pairs`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from perception.core.errors import InputError

_PATTERN = re.compile(r"(complete)|(swin|logwin)(?:-(\d+))?(-noncyclic)?|(oneref)(?:-(\d+))?")
_USUAL_WINDOW = 3
_FORMS = "complete, swin-K, logwin-K (each also with -noncyclic), oneref-K"


def image_pairs(num_images: int, graph: str = "complete", *, symmetrised: bool = True) -> list[tuple[int, int]]:
    """Pairs (i, j) of images, without repetition and in a fixed order; with `symmetrised` followed by all (j, i).

    complete: every pair. swin-K: images at most K apart. logwin-K: images 1, 2, 4, … 2^(K-1) apart. Both join end and beginning unless they end in
    -noncyclic; K is 3 if left out. oneref-K: image K (0) with every other. No image is paired with itself. The first of a pair is the smaller number,
    but of complete, as in DUSt3R, the larger, and of oneref the reference. Raises InputError for fewer than two images, an unknown graph, or a
    reference that is no image.
    """
    match = _PATTERN.fullmatch(graph)
    if match is None:
        raise InputError(f"scene graph {graph!r}: unknown; known: {_FORMS}")
    if num_images < 2:
        raise InputError(f"scene graph {graph!r} of {num_images} images: pairs need at least two")
    complete, window, size, noncyclic, _, reference = match.groups()
    if complete:
        pairs = [(i, j) for i in range(num_images) for j in range(i)]
    elif window:
        reach = _USUAL_WINDOW if size is None else int(size)
        if reach < 1:
            raise InputError(f"scene graph {graph!r}: K must be at least 1")
        offsets = range(1, reach + 1) if window == "swin" else [2**power for power in range(reach)]
        pairs = sorted(set(_neighbours(num_images, offsets, is_cyclic=noncyclic is None)))
    else:
        centre = int(reference or 0)
        if centre >= num_images:
            raise InputError(f"scene graph {graph!r}: the reference must be one of the images 0 … {num_images - 1}")
        pairs = [(centre, image) for image in range(num_images) if image != centre]
    return [*pairs, *((j, i) for i, j in pairs)] if symmetrised else pairs


def _neighbours(num_images: int, offsets: range | list[int], *, is_cyclic: bool) -> Iterator[tuple[int, int]]:
    for image in range(num_images):
        for offset in offsets:
            other = (image + offset) % num_images if is_cyclic else image + offset
            if other < num_images and other != image:
                yield min(image, other), max(image, other)
