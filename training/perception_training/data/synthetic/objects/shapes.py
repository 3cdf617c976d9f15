"""Shapes of household objects as sheets: swept bodies (boxes, cans, cones, bottles, stars, pebbles), prisms, rings, and what is made of them.

All lie around the origin with z upwards and sizes of about 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from perception_training.data.synthetic.objects.sheets import Sheet, disc, sheet

_AROUND, _ALONG = 72, 24

Body = list[Sheet]
Curve = Float[NDArray[np.float64], "n 2"]


def swept(profile: Curve, section: Curve) -> Body:
    """A body whose outline at height z is `section` (closed, counter-clockwise, x and y) times r, for the (r, z) of `profile` from below to above;
    closed by discs where the profile does not end at r = 0."""
    side = np.concatenate([profile[:, None, :1] * section, np.broadcast_to(profile[:, None, 1:], (len(profile), len(section), 1))], axis=2)
    body = [sheet(side)]
    for end, order in ((0, -1), (-1, 1)):
        if profile[end, 0] > 0:
            body.append(disc(side[end, ::order], np.array([0.0, 0.0, profile[end, 1]])))
    return body


def circle() -> Curve:
    """Of radius 1, its first point again at the end."""
    return _outline(lambda angle: np.ones_like(angle))


def prism(rng: np.random.Generator) -> Body:
    """A box, or a body with up to six flat sides; each side and end is a sheet of its own."""
    num = 4 if rng.random() < 0.8 else int(rng.choice([3, 5, 6]))
    angle = 2 * np.pi * (np.arange(num + 1) + 0.5) / num
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1.0, rng.uniform(0.25, 1.0)) * rng.uniform(0.3, 0.8)
    half = rng.uniform(0.3, 0.9)
    sides = [sheet(np.array([[[*a, -half], [*b, -half]], [[*a, half], [*b, half]]])) for a, b in itertools.pairwise(corners)]
    ends = [disc(np.column_stack([corners[::order], np.full(num + 1, z)]), np.array([0.0, 0.0, z])) for order, z in ((-1, -half), (1, half))]
    return sides + ends


def can(rng: np.random.Generator) -> Body:
    """A cylinder or a cone's lower part, round, oval or star-shaped."""
    half, taper = rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.0) if rng.random() < 0.4 else 1.0
    radius = rng.uniform(0.25, 0.6)
    return swept(np.array([[radius, -half], [radius * taper, half]]), _section(rng))


def cone(rng: np.random.Generator) -> Body:
    """With a point above."""
    half = rng.uniform(0.3, 0.8)
    return swept(np.array([[rng.uniform(0.3, 0.6), -half], [0.0, half]]), _section(rng))


def bottle(rng: np.random.Generator) -> Body:
    """Turned on a lathe: a smooth curve through a few random radii."""
    heights = np.linspace(-rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9), int(rng.integers(3, 7)))
    radii = rng.uniform(0.12, 0.5, len(heights))
    along = np.linspace(0, 1, _ALONG)
    smooth = 0.5 - 0.5 * np.cos(np.pi * (along * (len(heights) - 1) % 1))
    index = np.minimum((along * (len(heights) - 1)).astype(int), len(heights) - 2)
    smooth[-1] = 1.0
    radius = radii[index] * (1 - smooth) + radii[index + 1] * smooth
    return swept(np.stack([radius, np.interp(along, np.linspace(0, 1, len(heights)), heights)], axis=1), _section(rng))


def pebble(rng: np.random.Generator) -> Body:
    """A superellipsoid: from a rounded box over a ball to a spinning top."""
    tall, wide = 2.0 ** rng.uniform(-2.0, 0.6, 2)
    angle = np.linspace(-np.pi / 2, np.pi / 2, _ALONG)
    radius, height = _power(np.cos(angle), tall), _power(np.sin(angle), tall) * rng.uniform(0.4, 1.0)
    radius[[0, -1]] = 0.0
    profile = np.stack([radius * rng.uniform(0.4, 0.8), height * 0.8], axis=1)
    return swept(profile, _superellipse(wide) * (1.0, rng.uniform(0.4, 1.0)))


def ring(rng: np.random.Generator) -> Body:
    """A torus, as of a handle, or a part of one, as of a banana."""
    turn = 1.0 if rng.random() < 0.5 else rng.uniform(0.25, 0.7)
    around, along = np.linspace(0, 2 * np.pi, 33), np.linspace(0, 2 * np.pi * turn, 2 * _ALONG)
    thickness = rng.uniform(0.08, 0.3) * (1.0 if turn == 1.0 else _power(np.sin(np.pi * np.linspace(0, 1, len(along))), rng.uniform(0.2, 0.6)))
    radius = 0.7 + np.outer(np.cos(around), thickness * np.ones_like(along))
    height = np.outer(np.sin(around), thickness * np.ones_like(along))
    return [sheet(np.stack([radius * np.cos(along), radius * np.sin(along), height], axis=2))]


SHAPES: tuple[tuple[Callable[[np.random.Generator], Body], float], ...] = (
    (prism, 0.3),
    (can, 0.2),
    (bottle, 0.2),
    (pebble, 0.15),
    (cone, 0.05),
    (ring, 0.1),
)
"""Each with its share."""


def random_body(rng: np.random.Generator) -> Body:
    """One shape."""
    shares = np.array([share for _, share in SHAPES])
    make, _ = SHAPES[int(rng.choice(len(SHAPES), p=shares / shares.sum()))]
    return make(rng)


def bent(rng: np.random.Generator) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A random twist, bend and swelling of points (n, 3)."""
    twist, bend, swell = rng.uniform(-1.0, 1.0), rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.3)
    waves, phases = rng.normal(0, 2.0, (3, 3)), rng.uniform(0, 2 * np.pi, 3)

    def change(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, z = points.T
        cosine, sine, width = np.cos(twist * z), np.sin(twist * z), 1 + swell * z
        turned = np.stack([width * (cosine * x - sine * y) + bend * z**2, width * (sine * x + cosine * y), z], axis=1)
        return np.asarray(turned + 0.03 * np.sin(turned @ waves.T + phases))

    return change


def _section(rng: np.random.Generator) -> Curve:
    """Mostly round; sometimes oval, a rounded square or with lobes."""
    kind = rng.random()
    if kind < 0.6:
        return circle()
    if kind < 0.85:
        return _superellipse(2.0 ** rng.uniform(-2.0, 0.0)) * (1.0, rng.uniform(0.4, 1.0))
    lobes, depth = int(rng.integers(3, 9)), rng.uniform(0.05, 0.3)
    return _outline(lambda angle: 1 + depth * np.cos(lobes * angle))


def _superellipse(exponent: float) -> Curve:
    angle = np.linspace(0, 2 * np.pi, _AROUND + 1)
    return np.stack([_power(np.cos(angle), exponent), _power(np.sin(angle), exponent)], axis=1)


def _outline(radius: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Curve:
    angle = np.linspace(0, 2 * np.pi, _AROUND + 1)
    return radius(angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _power(value: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Of the absolute value, with the sign of the value."""
    return np.asarray(np.sign(value) * np.abs(value) ** exponent)
