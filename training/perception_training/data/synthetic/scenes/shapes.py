"""Things made of primitives: furniture, goods, trees. Each stands on z = 0 of its own frame, centred on the z axis; metres.

A shape takes its generator and a `scale`: the typical width of the thing in metres (its builder says for what).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from perception.geometry import se3
from perception_training.data.synthetic.scenes.bodies import TOUCH_M, Part, block
from perception_training.data.synthetic.scenes.motions import Floats, random_rotation
from perception_training.data.synthetic.scenes.scene import Kind

Shape = Callable[[np.random.Generator, float], list[Part]]


def crate(rng: np.random.Generator, scale: float) -> list[Part]:
    """A box."""
    half = scale / 2 * rng.uniform(0.5, 1.3, 3)
    return [block(half, (0, 0, half[2]))]


def book(rng: np.random.Generator, scale: float) -> list[Part]:
    """A flat box."""
    half = scale / 2 * np.array([rng.uniform(0.9, 1.3), rng.uniform(0.7, 1.0), rng.uniform(0.08, 0.3)])
    return [block(half, (0, 0, half[2]))]


def pile(rng: np.random.Generator, scale: float) -> list[Part]:
    """Two to four boxes on top of each other, each smaller and turned a little."""
    parts, top, half = [], 0.0, scale / 2 * rng.uniform(0.7, 1.2, 2)
    for material in range(int(rng.integers(2, 5))):
        thick = scale * rng.uniform(0.08, 0.35)
        pose = se3.exp(np.array([0, 0, top + thick, 0, 0, rng.uniform(-0.25, 0.25)]))
        parts.append(Part(Kind.BOX, (half[0], half[1], thick), pose, material))
        top, half = top + 2 * thick + TOUCH_M, half * rng.uniform(0.7, 0.95)
    return parts


def can(rng: np.random.Generator, scale: float) -> list[Part]:
    """A closed cylinder, low or tall."""
    radius, half = scale * rng.uniform(0.25, 0.5), scale * rng.uniform(0.25, 0.8)
    return [block((radius, radius, half), (0, 0, half), kind=Kind.CYLINDER)]


def ball(rng: np.random.Generator, scale: float) -> list[Part]:
    """A sphere."""
    radius = scale * rng.uniform(0.3, 0.6)
    return [block((radius,) * 3, (0, 0, radius), kind=Kind.ELLIPSOID)]


def pebble(rng: np.random.Generator, scale: float) -> list[Part]:
    """An ellipsoid of three radii, upright."""
    radii = scale / 2 * rng.uniform(0.5, 1.3, 3)
    return [block(radii, (0, 0, radii[2]), kind=Kind.ELLIPSOID)]


def bottle(rng: np.random.Generator, scale: float) -> list[Part]:
    """A cylinder with a shoulder and a neck."""
    radius, half = scale * rng.uniform(0.25, 0.4), scale * rng.uniform(0.4, 0.7)
    neck = scale * rng.uniform(0.1, 0.25)
    return [
        block((radius, radius, half), (0, 0, half), kind=Kind.CYLINDER),
        block((radius, radius, 0.5 * radius), (0, 0, 2 * half), kind=Kind.ELLIPSOID),
        block((0.35 * radius, 0.35 * radius, neck), (0, 0, 2 * half + 0.4 * radius + neck), 1, Kind.CYLINDER),
    ]


def figure(rng: np.random.Generator, scale: float) -> list[Part]:
    """A toy of a body, a head and two arms."""
    radius, half = scale * rng.uniform(0.2, 0.35), scale * rng.uniform(0.3, 0.5)
    head = scale * rng.uniform(0.18, 0.3)
    arm = block((0.06 * scale + 1.4 * radius, 0.06 * scale, 0.07 * scale), (0, 0, 1.4 * half), 1)
    return [
        block((radius, 0.8 * radius, half), (0, 0, half), kind=Kind.CYLINDER if rng.random() < 0.5 else Kind.BOX),
        block((head,) * 3, (0, 0, 2 * half + 0.85 * head), 2, Kind.ELLIPSOID),
        arm,
    ]


def table(rng: np.random.Generator, scale: float) -> list[Part]:
    """A top on four legs; `scale` is its length."""
    return table_of(scale / 2, scale / 2 * rng.uniform(0.55, 1.0), rng.uniform(0.6, 0.8), bool(rng.random() < 0.4))


def table_of(half_x: float, half_y: float, height: float, is_round_legged: bool) -> list[Part]:
    """A table of these half extents; the top is the first part."""
    leg, thick = 0.03, 0.02
    kind = Kind.CYLINDER if is_round_legged else Kind.BOX
    tall = height / 2 - thick - TOUCH_M
    legs = [
        block((leg, leg, tall), (x * (half_x - 1.5 * leg), y * (half_y - 1.5 * leg), tall), 1, kind) for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1))
    ]
    return [block((half_x, half_y, thick), (0, 0, height - thick)), *legs]


def chair(rng: np.random.Generator, scale: float) -> list[Part]:
    """Seat, back and four legs."""
    half, seat, leg = scale / 2 * 0.9, rng.uniform(0.4, 0.5), 0.02
    back = block((half, 0.015, rng.uniform(0.2, 0.3)), (0, half - 0.015, seat + 0.3))
    tall = seat / 2 - 0.02
    legs = [block((leg, leg, tall), (x * (half - leg), y * (half - leg), tall), 1) for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
    return [block((half, half, 0.02), (0, 0, seat - 0.02)), back, *legs]


def shelf(rng: np.random.Generator, scale: float) -> list[Part]:
    """Two sides, a back, boards and rows of goods on them; open towards -y."""
    half_x, half_y, tall, thin = scale / 2, rng.uniform(0.12, 0.2), rng.uniform(0.5, 1.0), 0.012
    parts = [block((thin, half_y, tall), (side * (half_x - thin), 0, tall)) for side in (-1, 1)]
    parts.append(block((half_x - 2 * thin, thin / 2, tall), (0, half_y - thin / 2, tall)))
    levels = np.linspace(0.06, 2 * tall - thin, int(rng.integers(3, 6)))
    parts += [block((half_x - 2 * thin - TOUCH_M, half_y - thin, thin), (0, -0.5 * thin, z)) for z in levels]
    for number, (low, high) in enumerate(pairwise(levels)):
        width, room = rng.uniform(0.3, 0.85) * (half_x - 3 * thin), (high - low) / 2 - thin
        goods = (width, rng.uniform(0.5, 0.8) * half_y, room * rng.uniform(0.5, 0.9))
        shift = rng.uniform(-1, 1) * (half_x - 3 * thin - width)
        parts.append(block(goods, (shift, -0.1 * half_y, low + thin + TOUCH_M + goods[2]), 1 + number))
    return parts


def sofa(rng: np.random.Generator, scale: float) -> list[Part]:
    """Seat, back and two arms; open towards -y."""
    half_x, half_y, seat = scale / 2, rng.uniform(0.38, 0.48), rng.uniform(0.2, 0.25)
    arm, back = rng.uniform(0.07, 0.12), rng.uniform(0.08, 0.12)
    return [
        block((half_x - 2 * arm - TOUCH_M, half_y - back - TOUCH_M, seat), (0, -back, seat), 1),
        block((half_x - 2 * arm - TOUCH_M, back, 2 * seat), (0, half_y - back, 2 * seat)),
        block((arm, half_y, 1.4 * seat), (arm - half_x, 0, 1.4 * seat)),
        block((arm, half_y, 1.4 * seat), (half_x - arm, 0, 1.4 * seat)),
    ]


def standing_lamp(rng: np.random.Generator, scale: float) -> list[Part]:
    """Foot, pole and shade."""
    radius, tall = scale * rng.uniform(0.3, 0.5), rng.uniform(0.6, 0.8)
    return [
        block((radius, radius, 0.015), (0, 0, 0.015), 0, Kind.CYLINDER),
        block((0.015, 0.015, tall), (0, 0, 0.03 + tall), 0, Kind.CYLINDER),
        block((radius, radius, 0.6 * radius), (0, 0, 2 * tall), 1, Kind.ELLIPSOID if rng.random() < 0.5 else Kind.CYLINDER),
    ]


def column(rng: np.random.Generator, scale: float) -> list[Part]:
    """A thick round or square post on a base."""
    half, tall = scale * rng.uniform(0.2, 0.35), rng.uniform(0.4, 1.0)
    kind = Kind.CYLINDER if rng.random() < 0.6 else Kind.BOX
    return [block((1.3 * half, 1.3 * half, 0.05), (0, 0, 0.05), 1), block((half, half, tall), (0, 0, 0.1 + tall), 0, kind)]


def plant(rng: np.random.Generator, scale: float) -> list[Part]:
    """A pot, a stem and a few tufts of leaves around its end."""
    pot, stem = scale * 0.3, scale * rng.uniform(0.4, 0.9)
    thin = 0.08 * pot
    parts = [block((pot, pot, pot), (0, 0, pot), 0, Kind.CYLINDER), block((thin, thin, stem / 2), (0, 0, 2 * pot + stem / 2), 1, Kind.CYLINDER)]
    return parts + _tufts(rng, int(rng.integers(2, 5)), 2 * pot + stem, scale * 0.35, material=2)


def tree(rng: np.random.Generator, scale: float) -> list[Part]:
    """A trunk with a crown; `scale` is the width of the crown."""
    radius, tall = scale * rng.uniform(0.06, 0.12), scale * rng.uniform(0.5, 1.1)
    trunk = block((radius, radius, tall / 2 + 0.5), (0, 0, tall / 2 - 0.5), 0, Kind.CYLINDER)
    return [trunk, *_tufts(rng, int(rng.integers(1, 5)), 1.25 * tall, scale * 0.5, material=1)]


def _tufts(rng: np.random.Generator, count: int, height: float, radius: float, material: int) -> list[Part]:
    parts = []
    for _ in range(count):
        radii = radius * rng.uniform(0.5, 0.9, 3)
        offset = np.append(rng.uniform(-0.6, 0.6, 2) * radius * (count > 1), rng.uniform(-0.2, 0.5) * radius)
        pose: Floats = se3.from_rotation_translation(random_rotation(rng), np.array([0, 0, height]) + offset)
        parts.append(Part(Kind.ELLIPSOID, (radii[0], radii[1], radii[2]), pose, material))
    return parts


def hut(rng: np.random.Generator, scale: float) -> list[Part]:
    """A house: walls that reach into the ground, a door, a window, and a flat, a vaulted or no roof."""
    half = scale / 2 * np.array([rng.uniform(0.8, 1.3), rng.uniform(0.8, 1.3), rng.uniform(0.6, 1.2)])
    parts = [block(half + np.array([0, 0, 0.5]), (0, 0, half[2] - 0.5))]
    front = -half[1] - 0.02
    parts.append(block((0.18 * half[0], 0.03, 0.4 * half[2]), (rng.uniform(-0.6, -0.2) * half[0], front, 0.4 * half[2]), 1))
    parts.append(block((0.25 * half[0], 0.03, 0.2 * half[2]), (rng.uniform(0.2, 0.6) * half[0], front, 1.2 * half[2]), 2))
    if rng.random() < 0.5:
        parts.append(block((1.1 * half[0], 1.1 * half[1], 0.08 * half[2]), (0, 0, 2.08 * half[2] + TOUCH_M), 3))
    elif rng.random() < 0.6:
        lying = se3.exp(np.array([0, 0, 0, 0, np.pi / 2, 0]))
        lying[2, 3] = 2 * half[2]
        parts.append(Part(Kind.CYLINDER, (0.5 * half[2], 0.98 * half[1], 0.98 * half[0]), lying, 3))
    return parts


def fence(rng: np.random.Generator, scale: float) -> list[Part]:
    """A panel between two posts, which reach into the ground."""
    half, tall = scale / 2, rng.uniform(0.4, 0.9)
    posts = [block((0.05, 0.05, tall + 0.4), (side * half, 0, tall - 0.3), 1) for side in (-1, 1)]
    return [block((half - 0.06, 0.02, 0.8 * tall), (0, 0, 1.0 * tall)), *posts]


def car(rng: np.random.Generator, scale: float) -> list[Part]:
    """A body, a cabin and four wheels; `scale` is its length."""
    half = scale / 2 * np.array([1.0, 0.42, 0.16])
    wheel, lift = 0.085 * scale, 0.07 * scale
    cabin = (half[0] * rng.uniform(0.45, 0.6), 0.88 * half[1], 0.8 * half[2])
    parts = [block(half, (0, 0, lift + half[2])), block(cabin, (rng.uniform(-0.15, 0.15) * half[0], 0, lift + 2.8 * half[2] + TOUCH_M), 1)]
    lying = se3.exp(np.array([0, 0, 0, np.pi / 2, 0, 0]))
    for x in (-0.6, 0.6):
        axle = lying.copy()
        axle[:3, 3] = (x * half[0], 0, wheel)
        parts.append(Part(Kind.CYLINDER, (wheel, wheel, 1.06 * half[1]), axle, 2))
    return parts


def boulder(rng: np.random.Generator, scale: float) -> list[Part]:
    """One or two ellipsoids, half in the ground."""
    count = int(rng.integers(1, 3))
    return [
        block(scale / 2 * rng.uniform(0.5, 1.2, 3), (rng.uniform(-0.3, 0.3) * scale * (count > 1), 0, 0.1 * scale), kind=Kind.ELLIPSOID)
        for _ in range(count)
    ]


GOODS: tuple[Shape, ...] = (crate, crate, book, pile, can, ball, pebble, bottle, figure)
"""What stands on tables and floors and can be moved."""

FREE_FURNITURE: tuple[tuple[Shape, float, float], ...] = (
    (table, 0.8, 1.6),
    (chair, 0.4, 0.55),
    (column, 0.4, 0.9),
    (plant, 0.5, 0.9),
    (standing_lamp, 0.4, 0.6),
    (crate, 0.3, 0.8),
    (pile, 0.4, 0.8),
    (pebble, 0.5, 0.9),
)
"""Shape with its range of scales, placed anywhere on the floor."""

WALL_FURNITURE: tuple[tuple[Shape, float, float], ...] = (
    (shelf, 0.7, 1.4),
    (shelf, 0.6, 1.0),
    (sofa, 1.4, 2.0),
    (table, 1.0, 1.8),
    (crate, 0.5, 1.0),
)
"""Shape with its range of scales, placed with its back (+y) to a wall."""

OUTDOOR: tuple[tuple[Shape, float, float], ...] = (
    (tree, 1.5, 3.0),
    (tree, 1.5, 3.0),
    (hut, 2.0, 4.0),
    (fence, 1.2, 2.5),
    (car, 2.5, 4.0),
    (boulder, 0.5, 1.8),
    (column, 0.8, 1.6),
    (crate, 0.5, 1.4),
    (pile, 0.8, 1.6),
)
"""Shape with its range of scales, placed on the ground outside."""
