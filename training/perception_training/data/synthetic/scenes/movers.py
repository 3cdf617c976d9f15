"""Single rigid things in motion: gliding through the air or over a floor, rolling, bouncing."""

from __future__ import annotations

import numpy as np

from perception_training.data.synthetic.scenes.bodies import TOUCH_M, Body, Part, block, half_extents
from perception_training.data.synthetic.scenes.motions import (
    Bouncing,
    Floats,
    Gliding,
    Rolling,
    Wave,
    placed,
    random_axis,
    random_rotation,
    random_wave,
)
from perception_training.data.synthetic.scenes.scene import Kind
from perception_training.data.synthetic.scenes.shapes import GOODS

UP = np.array([0.0, 0.0, 1.0])


def random_mover(rng: np.random.Generator, floor: Floats, scale_m: float, reach_m: float, duration_s: float) -> list[Body]:
    """A thing of width `scale_m` that moves by about `reach_m` over the floor point `floor` (3,) during a clip."""
    builders = (flying, pushed, rolling, bouncing)
    return [builders[int(rng.choice(4, p=(0.35, 0.25, 0.2, 0.2)))](rng, floor, scale_m, reach_m, duration_s)]


def flying(rng: np.random.Generator, floor: Floats, scale_m: float, reach_m: float, duration_s: float) -> Body:
    """Carried through the air on a smooth curve while turning about any axis."""
    parts = _centred(GOODS[int(rng.integers(len(GOODS)))](rng, scale_m))
    swing = reach_m * rng.uniform(0.3, 1.0, 3) * np.array([1.0, 1.0, 0.5])
    centre = floor + UP * (swing[2] + scale_m * rng.uniform(1.0, 3.0))
    path = tuple(random_wave(rng, 0.0, amplitude, duration_s) for amplitude in swing)
    turn = Wave(mean=0.0, slope=float(rng.uniform(0.2, 2.0) * rng.choice([-1, 1])) / duration_s)
    return Body("flying object", parts, Gliding(centre, (path[0], path[1], path[2]), random_rotation(rng), random_axis(rng), turn))


def pushed(rng: np.random.Generator, floor: Floats, scale_m: float, reach_m: float, duration_s: float) -> Body:
    """Slides over the floor on a smooth curve while turning about the vertical."""
    parts = tuple(GOODS[int(rng.integers(len(GOODS)))](rng, scale_m))
    path = [random_wave(rng, 0.0, reach_m * rng.uniform(0.2, 1.0), duration_s) for _ in range(2)]
    turn = random_wave(rng, rng.uniform(0, 6), rng.uniform(0.1, 1.2), duration_s)
    return Body("sliding object", parts, Gliding(floor + UP * TOUCH_M, (path[0], path[1], Wave()), np.eye(3), UP, turn))


def rolling(rng: np.random.Generator, floor: Floats, scale_m: float, reach_m: float, duration_s: float) -> Body:
    """A ball or a lying cylinder that rolls to and fro."""
    radius = scale_m * rng.uniform(0.35, 0.6)
    heading = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(heading), np.sin(heading), 0.0])
    travel = random_wave(rng, 0.0, reach_m * rng.uniform(0.5, 1.5), duration_s)
    if rng.random() < 0.6:
        part, rest = block((radius,) * 3, (0, 0, 0), kind=Kind.ELLIPSOID), random_rotation(rng)
    else:
        part = block((radius, radius, scale_m * rng.uniform(0.3, 0.8)), (0, 0, 0), kind=Kind.CYLINDER)
        rest = np.stack([direction, UP, np.array([direction[1], -direction[0], 0.0])], -1)
    return Body("rolling object", (part,), Rolling(floor + UP * (radius + TOUCH_M), direction, travel, radius, rest))


def bouncing(rng: np.random.Generator, floor: Floats, scale_m: float, reach_m: float, duration_s: float) -> Body:
    """Falls and bounces on the spot."""
    parts = tuple(GOODS[int(rng.integers(len(GOODS)))](rng, scale_m))
    drop = max(reach_m, scale_m) * rng.uniform(0.6, 2.0)
    turn = Wave(mean=float(rng.uniform(0, 6)), slope=float(rng.uniform(-1.0, 1.0)) / duration_s)
    lead = float(rng.uniform(-0.4, 0.2)) * duration_s
    return Body("falling object", parts, Bouncing(placed(floor + UP * TOUCH_M), drop, float(rng.uniform(0.5, 0.85)), lead, turn))


def _centred(parts: list[Part]) -> tuple[Part, ...]:
    """The parts moved so that the middle of the box around them is the origin, about which flying things turn."""
    reach = [half_extents(part.kind, np.asarray(part.size), part.body_from_part[:3, :3]) for part in parts]
    centres = [part.body_from_part[:3, 3] for part in parts]
    lower = np.min([centre - extent for centre, extent in zip(centres, reach, strict=True)], 0)
    upper = np.max([centre + extent for centre, extent in zip(centres, reach, strict=True)], 0)
    shift = placed(-(lower + upper) / 2)
    return tuple(Part(part.kind, part.size, shift @ part.body_from_part, part.material, part.height) for part in parts)
