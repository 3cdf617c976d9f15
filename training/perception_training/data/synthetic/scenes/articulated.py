"""Bodies with joints: doors, drawers, arms, pendulums. Each builder returns its bodies in the world, the fixed one first.

`base` (4, 4) is where the thing stands, facing -y; all motions swing about within a clip of `duration_s`.
"""

from __future__ import annotations

import numpy as np

from perception.geometry import se3
from perception_training.data.synthetic.scenes.bodies import TOUCH_M, Body, Part, block, still
from perception_training.data.synthetic.scenes.motions import Floats, Hinged, Motion, Sliding, Still, Wave, placed, random_wave
from perception_training.data.synthetic.scenes.scene import Kind

Z_TO_MINUS_Y: Floats = se3.exp(np.array([0, 0, 0, np.pi / 2, 0, 0]))
"""Turns a joint so that its axis (z) points along -y and its y along +z."""


def _shell(half: Floats) -> list[Part]:
    """A cupboard of half extents (3,) on z = 0 that is open towards -y."""
    x, y, z = half
    thin = 0.01
    sides = [block((thin, y, z), (side * (x - thin), 0, z)) for side in (-1, 1)]
    caps = [block((x - 2 * thin - TOUCH_M, y, thin), (0, 0, height)) for height in (thin, 2 * z - thin)]
    return [*sides, *caps, block((x - 2 * thin - TOUCH_M, thin, z - 2 * thin - TOUCH_M), (0, y - thin, z), 1)]


def cupboard(rng: np.random.Generator, base: Floats, half: Floats, duration_s: float) -> list[Body]:
    """A cupboard whose one or two doors swing; something stands in it."""
    motion = Still(base)
    content = half * [0.6, 0.6, rng.uniform(0.3, 0.6)]
    bodies = [Body("cupboard", (*_shell(half), block(content, (0, 0, 0.02 + TOUCH_M + content[2]), 2)), motion)]
    sides = (1, -1) if rng.random() < 0.5 else (1,)
    for side in sides:
        leaf = (half[0] / len(sides), half[2])
        bodies.append(_door(rng, motion, (-side * half[0], -half[1] - 0.015, half[2]), leaf, side, duration_s))
    return bodies


def _door_parts(half_width: float, half_height: float, side: int) -> list[Part]:
    knob = block((0.015, 0.03, 0.015), (side * 1.8 * half_width, 0, 0), 1, Kind.ELLIPSOID)
    return [block((half_width - TOUCH_M, 0.01, half_height), (side * half_width, 0, 0)), knob]


def _door(
    rng: np.random.Generator, parent: Motion, hinge: tuple[float, float, float], half: tuple[float, float], side: int, duration_s: float
) -> Body:
    """A leaf of half width and height `half` that hangs on the vertical through `hinge` and opens towards -y; `side` 1: hinge on its left."""
    mean, amplitude = -side * rng.uniform(0.5, 1.2), rng.uniform(0.2, 0.45)
    return Body("door", tuple(_door_parts(*half, side)), Hinged(parent, placed(hinge), random_wave(rng, mean, amplitude, duration_s)))


def gate(rng: np.random.Generator, base: Floats, half: Floats, duration_s: float) -> list[Body]:
    """A door that swings in a frame of two posts and a lintel; half (3,): of the opening, depth of the posts in y."""
    post = 0.04
    posts = [block((post, half[1], half[2]), (side * (half[0] + post + TOUCH_M), 0, half[2])) for side in (-1, 1)]
    lintel = block((half[0] + 2 * post, half[1], post), (0, 0, 2 * half[2] + post + TOUCH_M))
    motion = Still(base)
    leaf = _door(rng, motion, (-half[0], -half[1] - 0.015, half[2]), (half[0], half[2] - 0.01), 1, duration_s)
    return [Body("door frame", (*posts, lintel), motion), leaf]


def drawers(rng: np.random.Generator, base: Floats, half: Floats, duration_s: float) -> list[Body]:
    """A chest whose drawers move in and out."""
    count = int(rng.integers(2, 4))
    motion = Still(base)
    bodies = [Body("chest", tuple(_shell(half)), motion)]
    step = (half[2] - 0.03) / count
    for level in range(count):
        height = 0.03 + step * (2 * level + 1)
        front = block((half[0] - 0.005, step - 0.005, 0.01), (0, 0, 0.012))
        depth = half[1] - 0.03
        tray = block((half[0] - 0.03, 0.7 * step, depth), (0, -0.1 * step, -depth), 1)
        knob = block((0.02, 0.02, 0.02), (0, 0, 0.035), 2, Kind.ELLIPSOID)
        joint = placed((0, -half[1], height)) @ Z_TO_MINUS_Y
        reach = rng.uniform(0.2, 0.6) * half[1]
        travel = random_wave(rng, 1.1 * reach, reach, duration_s) if rng.random() < 0.7 else Wave(0.002)
        bodies.append(Body("drawer", (front, tray, knob), Sliding(motion, joint, travel)))
    return bodies


def arm(rng: np.random.Generator, base: Floats, reach_m: float, duration_s: float) -> list[Body]:
    """A robot arm: a turning shoulder and two to four links in a chain, with a gripper of two fingers; fully stretched it reaches about `reach_m`."""
    num_links = int(rng.integers(2, 5))
    length, radius = reach_m / (num_links + 0.8), reach_m * rng.uniform(0.035, 0.06)
    foot = [block((2.2 * radius, 2.2 * radius, radius), (0, 0, radius), 0, Kind.CYLINDER if rng.random() < 0.6 else Kind.BOX)]
    bodies = [still("arm base", foot, base)]
    turning = Hinged(bodies[0].motion, placed((0, 0, 2 * radius)), random_wave(rng, rng.uniform(-3, 3), rng.uniform(0.2, 1.0), duration_s))
    tower = [block((1.3 * radius, 1.3 * radius, 1.5 * radius), (0, 0, 1.5 * radius + TOUCH_M), 1, Kind.CYLINDER)]
    bodies.append(Body("arm shoulder", tuple(tower), turning))
    parent, joint = turning, placed((0, 0, 3.4 * radius)) @ Z_TO_MINUS_Y
    for link in range(num_links):
        mean = rng.uniform(-0.8, 0.8) if link == 0 else rng.uniform(0.3, 1.3) * rng.choice([-1, 1])
        parent = Hinged(parent, joint, random_wave(rng, mean, rng.uniform(0.15, 0.6), duration_s))
        parts = _link(length, radius * 0.85**link, link)
        if link == num_links - 1:
            parts += [block((0.15 * radius, 0.12 * length, 0.4 * radius), (side * 0.5 * radius, 1.1 * length, 0), 4) for side in (-1, 1)]
        bodies.append(Body("arm link", tuple(parts), parent))
        joint = placed((0, length, 0))
    return bodies


def _link(length: float, radius: float, number: int) -> list[Part]:
    """A knuckle at the joint and a bar along +y up to the next joint."""
    along_y = se3.exp(np.array([0, 0, 0, -np.pi / 2, 0, 0]))
    along_y[1, 3] = length / 2
    knuckle = block((1.25 * radius, 1.25 * radius, 1.4 * radius), (0, 0, 0), 2, Kind.CYLINDER)
    return [knuckle, Part(Kind.CYLINDER if number % 2 else Kind.BOX, (0.8 * radius, 0.8 * radius, length / 2), along_y, 3 * (number % 2))]


def pendulum(rng: np.random.Generator, ceiling: Floats, length_m: float, duration_s: float) -> list[Body]:
    """A chain of one to three rods that swings below `ceiling` (4, 4), with a weight at its end."""
    num_links = int(rng.integers(1, 4))
    length, radius = length_m / num_links, 0.02 * length_m
    bodies = [still("hook", [block((3 * radius, 3 * radius, radius), (0, 0, -radius), 0, Kind.CYLINDER)], ceiling)]
    parent: Motion = bodies[0].motion
    joint = placed((0, 0, -2 * radius)) @ Z_TO_MINUS_Y
    hanging = se3.exp(np.array([0, 0, 0, -np.pi / 2, 0, 0]))
    hanging[1, 3] = -length / 2
    for link in range(num_links):
        parent = Hinged(parent, joint, random_wave(rng, 0.0, rng.uniform(0.2, 0.6), duration_s))
        parts = [Part(Kind.CYLINDER, (radius, radius, length / 2), hanging, 0)]
        if link == num_links - 1:
            weight = length_m * rng.uniform(0.12, 0.3)
            kind = Kind.ELLIPSOID if rng.random() < 0.5 else Kind.BOX
            parts.append(block(weight * rng.uniform(0.6, 1.0, 3), (0, -length - 0.5 * weight, 0), 1, kind))
        bodies.append(Body("pendulum", tuple(parts), parent))
        joint = placed((0, -length, 0))
    return bodies


def rotor(rng: np.random.Generator, base: Floats, height_m: float, duration_s: float) -> list[Body]:
    """A mast with blades that turn about a horizontal axis towards -y."""
    mast = block((0.04 * height_m, 0.04 * height_m, height_m / 2), (0, 0, height_m / 2), 0, Kind.CYLINDER)
    bodies = [still("mast", [mast], base)]
    joint = placed((0, -0.065 * height_m, height_m)) @ Z_TO_MINUS_Y
    spin = Wave(mean=float(rng.uniform(0, 6)), slope=float(rng.uniform(0.4, 2.0) * rng.choice([-1, 1])) / duration_s)
    count, blade = int(rng.integers(2, 5)), height_m * rng.uniform(0.25, 0.45)
    parts = [block((0.05 * height_m, 0.05 * height_m, 0.05 * height_m), (0, 0, 0), 1, Kind.ELLIPSOID)]
    for number in range(count):
        turn = se3.exp(np.array([0, 0, 0, 0, 0, 2 * np.pi * number / count]))
        parts.append(Part(Kind.BOX, (0.16 * blade, blade / 2, 0.008 * height_m), turn @ placed((0, blade / 2 + 0.03 * height_m, 0)), 2))
    bodies.append(Body("rotor", tuple(parts), Hinged(bodies[0].motion, joint, spin)))
    return bodies
