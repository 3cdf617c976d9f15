"""Plans of procedural clips: what their seeds decide, where cameras go, how things move."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from perception.core.errors import ConfigError
from perception_training.data.synthetic.scenes import articulated
from perception_training.data.synthetic.scenes.bodies import Body, Stage, block, clearance, still
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.layouts import Amounts
from perception_training.data.synthetic.scenes.motions import Bouncing, Hinged, Rolling, Sliding, Wave, placed
from perception_training.data.synthetic.scenes.plan import ClipPlan, plan_clip
from perception_training.data.synthetic.scenes.scene import Kind
from perception_training.data.synthetic.scenes.textures import NUM_BANK_PICTURES, TEXTURE_SIZE_PX, bank_picture, texture
from perception_training.data.synthetic.scenes.viewpoints import Occupancy

CONFIG = ScenesConfig()
SOLIDS = (Kind.BOX, Kind.ELLIPSOID, Kind.CYLINDER)


@lru_cache(maxsize=128)
def plan(seed: int) -> ClipPlan:
    return plan_clip(CONFIG, seed)


def solid_clearance(body: Body, points: np.ndarray, world_from_body: np.ndarray) -> np.ndarray:
    parts = [part for part in body.parts if part.kind in SOLIDS]
    if not parts:
        return np.full(len(points), np.inf)
    poses = world_from_body @ np.stack([part.body_from_part for part in parts])
    return clearance(points, np.array([part.kind for part in parts]), np.array([part.size for part in parts]), poses)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    first = plan(5)
    plan_clip.cache_clear()
    again, other = plan_clip(CONFIG, 5), plan_clip(CONFIG, 6)
    times = np.linspace(0, CONFIG.duration_s, 5)
    a, b, c = (found.scene(times) for found in (first, again, other))
    for name in ("kind", "size", "world_from_primitive", "world_from_camera", "texture", "tint", "light_position", "intrinsics"):
        assert (getattr(a, name) == getattr(b, name)).all(), name
    assert (a.textures.texels == b.textures.texels).all()
    assert not np.array_equal(a.world_from_camera.numpy(), c.world_from_camera.numpy())
    assert first.text == again.text


def test_no_camera_comes_within_three_centimetres_of_a_primitive_over_100_seeds() -> None:
    times = np.linspace(0, CONFIG.duration_s, 25)
    for seed in range(100):
        found = plan(seed)
        positions = found.path.at(times)[:, :3, 3]
        least = Occupancy.of(found.layout, times).clearance(positions).min()
        assert least > 0.03, f"seed {seed} ({found.text}): {least:.3f} m"
        assert (positions > found.layout.camera_lower - 1e-9).all(), seed
        assert (positions < found.layout.camera_upper + 1e-9).all(), seed


def test_most_cameras_move() -> None:
    still_cameras = sum(plan(seed).path_name == "a camera that stands still" for seed in range(100))
    assert still_cameras < 20


def test_moving_things_do_not_enter_standing_ones() -> None:
    times = np.linspace(0, CONFIG.duration_s, 9)
    for seed in range(40):
        found = plan(seed)
        standing = [body for body, moves in zip(found.layout.bodies, found.is_dynamic, strict=True) if not moves and not body.is_fixture]
        for body, moves in zip(found.layout.bodies, found.is_dynamic, strict=True):
            if not moves or isinstance(body.motion, Hinged | Sliding):
                continue
            poses = body.motion.at(times)
            centres = np.concatenate([(poses @ part.body_from_part)[:, :3, 3] for part in body.parts])
            for other in standing:
                inside = solid_clearance(other, centres, other.motion.at(times[:1])[0])
                assert inside.min() > 0, f"seed {seed}: {body.name} in {other.name}"


def test_all_motions_are_continuous_between_frames() -> None:
    step = 1e-4
    times = np.linspace(-0.05, 1.05, 57) * CONFIG.duration_s
    for seed in range(40):
        for body in plan(seed).layout.bodies:
            if not body.is_fixture:
                speed = np.abs(body.motion.at(times + step) - body.motion.at(times)).max() / step
                assert speed < 60, f"seed {seed}: {body.name} jumps ({speed:.0f} per second)"
        camera = plan(seed).path
        assert np.abs(camera.at(times + step) - camera.at(times)).max() / step < 30, seed


@pytest.mark.parametrize("seed", range(6))
def test_parts_stay_attached_at_their_joints(seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = np.array([0.3, 0.2, 0.4])
    base = placed((0.4, -0.2, 0.1), 0.7)
    built = (
        articulated.arm(rng, base, 0.8, 1.0),
        articulated.pendulum(rng, base, 0.8, 1.0),
        articulated.cupboard(rng, base, half, 1.0),
        articulated.gate(rng, base, half, 1.0),
        articulated.drawers(rng, base, half, 1.0),
        articulated.rotor(rng, base, 2.0, 1.0),
    )
    times = np.linspace(0, 1, 11)
    for bodies in built:
        by_motion = {id(body.motion): body for body in bodies}
        for body in bodies[1:]:
            motion = body.motion
            assert isinstance(motion, Hinged | Sliding)
            parent, poses = motion.parent.at(times), motion.at(times)
            joint = parent @ motion.parent_from_joint
            if isinstance(motion, Hinged):
                assert np.abs(poses[:, :3, 3] - joint[:, :3, 3]).max() < 1e-6
            assert np.abs(poses[:, :3, 2] - joint[:, :3, 2]).max() < 1e-6, "the axis of the joint is the axis of the part"
            assert np.linalg.norm(poses[:, :3, 3] - joint[:, :3, 3], axis=1).max() < 1.3 * half[1], "a drawer leaves its chest"
            across = np.cross(poses[:, :3, 3] - joint[:, :3, 3], joint[:, :3, 2])
            assert np.abs(across).max() < 1e-6, "a drawer leaves its rail"
            if isinstance(motion, Hinged):
                for index, spot in enumerate(joint[:, None, :3, 3]):
                    assert solid_clearance(by_motion[id(motion.parent)], spot, parent[index]).min() < 0.06, body.name
                    assert solid_clearance(body, spot, poses[index]).min() < 0.06, body.name


def test_a_rolling_ball_does_not_slip() -> None:
    motion = Rolling(np.array([0.3, 0.1, 0.2]), np.array([0.6, 0.8, 0.0]), Wave(0.1, 0.5, 0.4, 0.3), 0.2, np.eye(3))
    for time in np.linspace(0, 1, 7):
        pose, after = motion.at(np.array([time, time + 1e-6]))
        touching = np.linalg.inv(pose) @ np.array([*pose[:2, 3], 0.0, 1.0])
        assert np.abs((after @ touching - pose @ touching)[:3]).max() / 1e-6 < 1e-4


def test_a_bounce_reaches_restitution_squared_of_the_height_before_and_never_enters_the_floor() -> None:
    motion = Bouncing(placed((0, 0, 1.0)), 0.5, 0.7, 0.0, Wave())
    height = motion.at(np.linspace(0, 3, 30001))[:, 2, 3] - 1
    assert height.min() >= 0
    peaks = height[1:-1][(height[1:-1] >= height[:-2]) & (height[1:-1] > height[2:])]
    assert peaks[:3] == pytest.approx(0.5 * 0.49 ** np.arange(1, 4), rel=1e-3)


def test_a_stage_refuses_what_overlaps_and_what_leaves_it() -> None:
    stage = Stage((-1, -1, 0), (1, 1, 2), np.zeros(1))
    cube = [block((0.2, 0.2, 0.2), (0, 0, 0.2))]
    assert stage.offer([still("first", cube, np.eye(4))])
    assert not stage.offer([still("within", cube, placed((0.3, 0, 0)))])
    assert not stage.offer([still("outside", cube, placed((0.9, 0.9, 0)))])
    assert stage.offer([still("on top", cube, placed((0, 0, 0.4001)))])


def test_frozen_clips_hold_nothing_that_moves() -> None:
    frozen = plan_clip(ScenesConfig(share_frozen=1.0), 3)
    assert not frozen.is_dynamic.any()
    assert "nothing moves" in frozen.text


def test_layouts_of_all_kinds_have_about_as_many_parts_as_asked_for() -> None:
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        config = ScenesConfig(
            room_weight=weights[0],
            table_top_weight=weights[1],
            outdoors_weight=weights[2],
            num_parts=(30, 30),
            num_moving=(1, 1),
            num_articulated=(0, 0),
        )
        counts = [plan_clip(config, seed).num_parts for seed in range(6)]
        assert 18 <= np.median(counts) <= 60, counts


def test_swept_bounds_reach_beyond_the_clip_because_exposures_do() -> None:
    times = Amounts(1, 1, 1, 2.0).times_s
    assert times[0] < 0 < 2.0 < times[-1]


def test_collages_are_drawn_in_their_share() -> None:
    """With the same seeds, the share decides which pictures are others than without collages."""
    without, half, every = ([texture(np.random.default_rng(seed), 0.0, 0.0, share).tobytes() for seed in range(40)] for share in (0.0, 0.5, 1.0))
    assert 10 <= sum(a == b for a, b in zip(without, half, strict=True)) <= 30
    assert not any(a == b for a, b in zip(without, every, strict=True))
    with pytest.raises(ConfigError, match="must not exceed 1"):
        ScenesConfig(share_photographs=0.5, share_collages=0.5)


@pytest.mark.parametrize("share_collages", [0.0, 0.85])
def test_textures_are_neither_black_nor_white(share_collages: float) -> None:
    rng = np.random.default_rng(0)
    pictures = [texture(rng, 0.85 - share_collages, 0.15, share_collages) for _ in range(60)]
    means = np.array([picture.mean() for picture in pictures])
    assert all(picture.shape == (TEXTURE_SIZE_PX, TEXTURE_SIZE_PX, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert means.min() > 40
    assert means.max() < 235
    assert np.array_equal(bank_picture(7), bank_picture.__wrapped__(7))
    assert NUM_BANK_PICTURES > 100
