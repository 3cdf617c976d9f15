"""A clip before it is rendered: everything that its seed decides, evaluated at any times."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from perception_training.data.synthetic.scenes.camera_paths import CameraPath, PathSettings
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.layouts import LAYOUTS, NUM_GRID_POINTS, Amounts, Layout
from perception_training.data.synthetic.scenes.looks import Lights, Looks, random_lights, random_looks, texture_set
from perception_training.data.synthetic.scenes.motions import Floats
from perception_training.data.synthetic.scenes.scene import SceneBatch
from perception_training.data.synthetic.scenes.viewpoints import Occupancy, choose_path, part_poses


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """What one seed gives.

    layout, looks, lights, path: see there · is_dynamic (bodies,) · intrinsics (4,) fx, fy, cx, cy · path_name: of the camera's motion.
    """

    config: ScenesConfig
    seed: int
    layout: Layout
    looks: Looks
    lights: Lights
    path: CameraPath
    path_name: str
    is_dynamic: NDArray[np.bool_]
    intrinsics: Floats

    @property
    def num_parts(self) -> int:
        return len(self.looks.texture)

    @property
    def text(self) -> str:
        """One sentence: where it is, what stands there, what moves, and the camera."""
        still = Counter(body.name for body, moves in zip(self.layout.bodies, self.is_dynamic, strict=True) if not (moves or body.is_fixture))
        moving = Counter(body.name for body, moves in zip(self.layout.bodies, self.is_dynamic, strict=True) if moves)
        place = {"room": "A room", "table top": "A table top", "outdoors": "Open ground"}[self.layout.name]
        things = f" with {_listed(still)}" if still else ""
        motion = f"; moving: {_listed(moving)}" if moving else "; nothing moves"
        return f"{place}{things}{motion}; seen by {self.path_name}."

    def scene(self, times_s: Floats, shift_px: Floats | None = None, device: str = "cpu") -> SceneBatch:
        """The clip at times (T,), a batch of one with exposure 1. shift_px (T, 2): moves the principal point, for rays between pixel centres."""
        count = len(times_s)
        parts = [(number, body, part) for number, body in enumerate(self.layout.bodies) for part in body.parts]
        intrinsics = np.tile(self.intrinsics, (count, 1))
        if shift_px is not None:
            intrinsics[:, 2:] += shift_px
        heights = np.stack(self.layout.heights) if self.layout.heights else np.zeros((0, NUM_GRID_POINTS, NUM_GRID_POINTS))
        number = self.seed // self.config.clips_per_texture_set
        return SceneBatch(
            kind=torch.tensor([[int(part.kind) for _, _, part in parts]]),
            size=_single([part.size for _, _, part in parts]),
            world_from_primitive=torch.from_numpy(part_poses(self.layout.bodies, times_s))[None],
            object_id=torch.tensor([[body_number + 1 for body_number, _, _ in parts]], dtype=torch.int32),
            is_dynamic=torch.tensor([[bool(self.is_dynamic[body_number]) for body_number, _, _ in parts]]),
            casts_shadow=torch.tensor([[not body.is_fixture for _, body, _ in parts]]),
            texture=torch.from_numpy(self.looks.texture)[None],
            texture_scale=_single(self.looks.scale),
            texture_offset=_single(self.looks.offset),
            tint=_single(self.looks.tint),
            specular=_single(self.looks.specular),
            shininess=_single(self.looks.shininess),
            height_index=torch.tensor([[part.height for _, _, part in parts]]),
            light_position=_single(self.lights.positions(times_s)),
            light_colour=_single(self.lights.colour),
            ambient=_single(self.lights.ambient),
            background=_single(self.lights.background),
            intrinsics=torch.from_numpy(intrinsics)[None],
            world_from_camera=torch.from_numpy(np.ascontiguousarray(self.path.at(times_s)))[None],
            exposure=torch.ones(1, count),
            textures=texture_set(number, self.config, device),
            heights=torch.from_numpy(heights).float(),
            image_size=(self.config.height, self.config.width),
        )


def _single(values: object) -> torch.Tensor:
    """(1, ...) float32."""
    return torch.from_numpy(np.asarray(values, np.float32))[None]


def _listed(names: Counter[str]) -> str:
    """'chair, 3 crates'."""
    return ", ".join(f"{count} {name}{'es' if name.endswith('h') else 's'}" if count > 1 else name for name, count in sorted(names.items()))


@functools.lru_cache(maxsize=64)
def plan_clip(config: ScenesConfig, seed: int) -> ClipPlan:
    """Draw a clip; the same settings and seed give the same clip."""
    rng = np.random.default_rng((0xC11B, seed))
    weights = np.array([config.room_weight, config.table_top_weight, config.outdoors_weight])
    name = ("room", "table_top", "outdoors")[int(rng.choice(3, p=weights / weights.sum()))]
    is_frozen = rng.random() < config.share_frozen
    amounts = Amounts(
        num_parts=_between(rng, config.num_parts),
        num_moving=0 if is_frozen else _between(rng, config.num_moving),
        num_articulated=0 if is_frozen else _between(rng, config.num_articulated),
        duration_s=config.duration_s,
    )
    layout = LAYOUTS[name](rng, amounts)
    occupancy = Occupancy.of(layout, amounts.times_s)
    focal = float(rng.uniform(*config.focal))
    settings = PathSettings(config.camera_travel, np.radians(config.max_roll_deg), config.share_still_camera, config.share_shaken, config.duration_s)
    path_name, path = choose_path(rng, layout, occupancy, settings, focal)
    centre = [(config.width - 1) / 2, (config.height - 1) / 2] + rng.uniform(-0.02, 0.02, 2) * config.width
    return ClipPlan(
        config=config,
        seed=seed,
        layout=layout,
        looks=random_looks(rng, layout.bodies, config),
        lights=random_lights(rng, layout, occupancy, config, config.duration_s),
        path=path,
        path_name=path_name,
        is_dynamic=np.array([body.is_dynamic(amounts.times_s) for body in layout.bodies]),
        intrinsics=np.array([focal * config.width, focal * config.width * rng.uniform(0.98, 1.02), *centre]),
    )


def _between(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))
