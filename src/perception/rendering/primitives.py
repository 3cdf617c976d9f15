"""Textured meshes of simple shapes, centred on their middle with z upwards. Sizes in metres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.io.meshes import Mesh

BOX_SIDES = ("front", "back", "left", "right", "top", "bottom")
"""Order of a box's sides in its texture: front looks along -y, right along +x, top along +z."""

_OUTWARDS_AND_RIGHT = {
    "front": ((0, -1, 0), (1, 0, 0)),
    "back": ((0, 1, 0), (-1, 0, 0)),
    "left": ((-1, 0, 0), (0, -1, 0)),
    "right": ((1, 0, 0), (0, 1, 0)),
    "top": ((0, 0, 1), (1, 0, 0)),
    "bottom": ((0, 0, -1), (-1, 0, 0)),
}


def box(size: tuple[float, float, float], sides: list[NDArray[np.uint8]], name: str = "box") -> Mesh:
    """A box of `size` along x, y, z. sides: six square RGB pictures of equal size in the order of BOX_SIDES."""
    tile = sides[0].shape[0]
    texture = np.vstack([np.hstack(sides[:3]), np.hstack(sides[3:])])
    half = np.array(size) / 2
    vertices, uv, faces = [], [], []
    for index, side in enumerate(BOX_SIDES):
        outwards, right = (np.array(axis, float) for axis in _OUTWARDS_AND_RIGHT[side])
        up = np.cross(outwards, right)
        row, column = divmod(index, 3)
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            vertices.append((outwards + (2 * u - 1) * right + (2 * v - 1) * up) * half)
            inside = np.array([u, 1 - v]) * (tile - 1) + 0.5  # half a texel off the edge, so that sides do not bleed into each other
            uv.append(((column * tile + inside[0]) / (3 * tile), 1 - (row * tile + inside[1]) / (2 * tile)))
        first = 4 * index
        faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    return Mesh(np.array(vertices, np.float32), np.array(faces), np.array(uv, np.float32), texture, None, name)


def cylinder(radius: float, height: float, label: NDArray[np.uint8], lid: NDArray[np.uint8], name: str = "cylinder", num_segments: int = 96) -> Mesh:
    """A closed cylinder. label: RGB picture that goes around once · lid: square RGB picture as wide as the label, on both ends."""
    texture = np.vstack([label, lid[:, : label.shape[1]]])
    label_share = label.shape[0] / texture.shape[0]
    turn = np.arange(num_segments + 1) / num_segments
    circle = np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=1)
    vertices, uv = [], []
    faces: list[tuple[int, ...]] = []
    for z, v in ((-height / 2, 1 - label_share), (height / 2, 1.0)):
        vertices.append(np.column_stack([radius * circle, np.full(len(turn), z)]))
        uv.append(np.column_stack([turn, np.full(len(turn), v)]))
    count = len(turn)
    for i in range(num_segments):
        faces += [(i, i + 1, count + i + 1), (i, count + i + 1, count + i)]
    for z, order in ((-height / 2, -1), (height / 2, 1)):
        middle = sum(len(part) for part in vertices)
        vertices.append(np.vstack([[0, 0, z], np.column_stack([radius * circle, np.full(count, z)])]))
        disc = np.vstack([[0.5, 0.5], 0.5 + 0.49 * circle])
        uv.append(np.column_stack([disc[:, 0], disc[:, 1] * (1 - label_share)]))
        faces += [(middle, middle + 1 + i, middle + 2 + i)[::order] for i in range(num_segments)]
    return Mesh(np.vstack(vertices).astype(np.float32), np.array(faces), np.vstack(uv).astype(np.float32), texture, None, name)


def sphere(radius: float, texture: NDArray[np.uint8], name: str = "sphere", num_segments: int = 48) -> Mesh:
    """A sphere with its texture spread by longitude and latitude."""
    turn, rise = np.meshgrid(np.arange(num_segments + 1) / num_segments, np.arange(num_segments // 2 + 1) / (num_segments // 2))
    latitude = (rise - 0.5) * np.pi
    points = np.stack([np.cos(latitude) * np.cos(2 * np.pi * turn), np.cos(latitude) * np.sin(2 * np.pi * turn), np.sin(latitude)], axis=-1)
    uv = np.stack([turn, rise], axis=-1).reshape(-1, 2)
    faces, columns = [], num_segments + 1
    for row in range(num_segments // 2):
        for column in range(num_segments):
            first = row * columns + column
            faces += [(first, first + 1, first + columns + 1), (first, first + columns + 1, first + columns)]
    return Mesh((radius * points.reshape(-1, 3)).astype(np.float32), np.array(faces), uv.astype(np.float32), texture, None, name)


def room(size: tuple[float, float, float], walls: list[NDArray[np.uint8]], name: str = "room") -> Mesh:
    """The inside of a box: like `box`, with its pictures readable from within."""
    outside = box(size, [picture[:, ::-1] for picture in walls], name)
    return Mesh(outside.vertices, outside.faces[:, ::-1].copy(), outside.uv, outside.texture, None, name)
