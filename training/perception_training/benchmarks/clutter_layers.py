"""Pictures that are laid over each other: renders of meshes with soft edges and pieces of photographs, and how much of an object they hide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera
from perception.rendering.lighting import LightRig
from perception.rendering.raycast import MeshScene, render

_SUPERSAMPLING = 2
_SLIDE_STEPS = 48
_PIECE_CORNERS = 9
_PIECE_EDGE_PX = 1.0


@dataclass(frozen=True, eq=False)
class Layer:
    """colour (height, width, 3) float32 in [0, 255], already multiplied with alpha · alpha (height, width) float32 in [0, 1] · x, y: pixel of the
    image below where the first row and column lie, which may be outside of it."""

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]
    x: int = 0
    y: int = 0

    def centred(self, centre_px: NDArray) -> Layer:
        """The same layer with its middle at a pixel (x, y)."""
        height, width = self.alpha.shape
        return Layer(self.colour, self.alpha, round(float(centre_px[0]) - (width - 1) / 2), round(float(centre_px[1]) - (height - 1) / 2))

    def over(self, image: NDArray[np.float32]) -> None:
        """Lay it over an image (height, width, 3), in place."""
        below, own = self._common(image.shape[0], image.shape[1])
        image[below] = self.colour[own] + (1 - self.alpha[own])[..., None] * image[below]

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """(height, width) where the layer is more than half opaque."""
        found = np.zeros((height, width), np.bool_)
        below, own = self._common(height, width)
        found[below] = self.alpha[own] > 0.5
        return found

    def _common(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What image and layer share, in pixels of either."""
        top, left = max(0, self.y), max(0, self.x)
        bottom, right = max(top, min(height, self.y + self.alpha.shape[0])), max(left, min(width, self.x + self.alpha.shape[1]))
        own = slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x)
        return (slice(top, bottom), slice(left, right)), own


def rendered_layer(scene: MeshScene, camera: Camera, camera_from_object: NDArray[np.float64], lights: LightRig) -> Layer:
    """A mesh as a layer of its own size. Seen on black and on white, so that the share of a pixel that it covers is known."""
    black, white = (
        render(scene, camera, camera_from_object, lighting=lights, background=(grey,) * 3, supersampling=_SUPERSAMPLING, num_threads=1)
        for grey in (0, 255)
    )
    alpha = np.asarray(1 - (white.image.astype(np.float32) - black.image).mean(axis=2) / 255, np.float32)
    rows, cols = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return Layer(np.zeros((1, 1, 3), np.float32), np.zeros((1, 1), np.float32))
    part = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    return Layer(black.image[part].astype(np.float32), alpha[part], int(cols[0]), int(rows[0]))


def piece_of(image: NDArray[np.uint8], size_px: float, rng: np.random.Generator) -> Layer:
    """An irregular piece of a photograph, about `size_px` wide and high, with soft edges."""
    side = int(min(max(8.0, size_px), *image.shape[:2]))
    top, left = int(rng.integers(image.shape[0] - side + 1)), int(rng.integers(image.shape[1] - side + 1))
    angles = np.sort(rng.uniform(0, 2 * np.pi, _PIECE_CORNERS))
    corners = side / 2 + rng.uniform(0.3, 0.5, _PIECE_CORNERS)[:, None] * side * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros((side, side), np.float32)
    cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 1.0)
    alpha = np.asarray(cv2.GaussianBlur(mask, (0, 0), _PIECE_EDGE_PX, borderType=cv2.BORDER_CONSTANT), np.float32)
    return Layer(image[top : top + side, left : left + side] * alpha[..., None], alpha)


def hide_share(
    seen: NDArray[np.bool_], share: float, draw: Callable[[], Layer], rng: np.random.Generator, max_layers: int, tolerance: float
) -> list[Layer]:
    """Layers that together hide about this share of the pixels that are `seen` (height, width), never more.

    Each is drawn, then slid from outside towards the middle of the object to where it comes nearest to what is left to hide.
    """
    total, hidden = max(1, int(seen.sum())), np.zeros_like(seen)
    placed: list[Layer] = []
    while len(placed) < max_layers and share - (hidden & seen).sum() / total > tolerance:
        layer = draw()
        rows, cols = np.nonzero(seen)
        middle, angle = np.array([cols.mean(), rows.mean()]), rng.uniform(0, 2 * np.pi)
        reach = 0.5 * (np.hypot(np.ptp(cols), np.ptp(rows)) + np.hypot(*layer.alpha.shape))
        towards = np.array([np.cos(angle), np.sin(angle)])
        places = [layer.centred(middle + reach * step / _SLIDE_STEPS * towards) for step in range(_SLIDE_STEPS + 1)]
        shares = np.array([((hidden | place.mask(*seen.shape)) & seen).sum() / total for place in places])
        best = int(np.argmax(np.where(shares <= share, shares, -1.0)))
        placed.append(places[best])
        hidden |= places[best].mask(*seen.shape)
    return placed
