"""Surfaces as sheets: grids of points, each with its own picture, that are put together to one mesh with one texture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from perception.io.meshes import Mesh

TILE_PX = (256, 512)
"""Height and width of a sheet's place in the texture."""
_INSET_PX = 1.0
"""Pictures are read so far inside their places, so that they do not bleed into each other."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """points (rows, cols, 3), seen from outside with columns going right and rows going up · uv (rows, cols, 2) in [0, 1], origin bottom left."""

    points: Float[NDArray[np.float64], "rows cols 3"]
    uv: Float[NDArray[np.float64], "rows cols 2"]

    def moved(self, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Sheet:
        """With other points; `change` maps (n, 3) to (n, 3)."""
        return replace(self, points=change(self.points.reshape(-1, 3)).reshape(self.points.shape))


def sheet(points: Float[NDArray[np.float64], "rows cols 3"]) -> Sheet:
    """A sheet over which the picture is spread evenly."""
    rows, cols = points.shape[:2]
    u, v = np.meshgrid(np.linspace(0, 1, cols), np.linspace(0, 1, rows))
    return Sheet(points, np.stack([u, v], axis=-1))


def disc(rim: Float[NDArray[np.float64], "n 3"], middle: Float[NDArray[np.float64], " 3"]) -> Sheet:
    """The fan between a closed rim, counter-clockwise as seen from outside, and its middle; the picture is cut out, not bent."""
    inner = np.broadcast_to(middle, rim.shape)
    reach = np.abs(rim[:, :2] - middle[:2]).max()
    flat = 0.5 + 0.5 * (rim[:, :2] - middle[:2]) / max(float(reach), 1e-9)
    return Sheet(np.stack([rim, inner]), np.stack([flat, np.full_like(flat, 0.5)]))


def joined(sheets: Sequence[Sheet], pictures: Sequence[NDArray[np.uint8]], name: str) -> Mesh:
    """One mesh of all sheets; pictures, one for each sheet, lie above each other in its texture."""
    height, width = TILE_PX
    texture = np.vstack([cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures]).astype(np.uint8)
    vertices, coordinates, faces = [], [], []
    first = 0
    for number, item in enumerate(sheets):
        rows, cols = item.points.shape[:2]
        inside = _INSET_PX + item.uv.reshape(-1, 2) * (np.array([width, height]) - 2 * _INSET_PX)
        from_below = height * (len(sheets) - 1 - number)
        coordinates.append((inside + np.array([0, from_below])) / (width, height * len(sheets)))
        vertices.append(item.points.reshape(-1, 3))
        faces.append(first + _triangles(rows, cols))
        first += rows * cols
    return Mesh(np.vstack(vertices).astype(np.float32), np.vstack(faces), np.vstack(coordinates).astype(np.float32), texture, None, name)


def _triangles(rows: int, cols: int) -> NDArray[np.int64]:
    """Two counter-clockwise triangles for each cell of a grid of points."""
    corner = (np.arange(rows - 1)[:, None] * cols + np.arange(cols - 1)).reshape(-1, 1)
    lower, upper = corner + np.array([0, 1, cols + 1]), corner + np.array([0, cols + 1, cols])
    return np.concatenate([lower, upper]).astype(np.int64)
