"""Which frames make a sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.miniatures.numbered import MiniatureDataset, MiniatureOptions
from tests.support.miniatures.samples import scene_sample

from perception.core.errors import ConfigError, InputError
from perception.geometry import se3, so3
from perception_training.data.frame_sampling import (
    JOG3R_STEPS,
    MEF_MAX_ROTATION_DEG,
    FrameSamplingConfig,
    TooFewFrames,
    choose_frames,
    clip_frames,
    clip_starts,
    covisibility,
    frustum_overlap,
    is_covisible,
    overlapping,
)
from perception_training.data.sequences import FrameSequence


class PosedSequence(FrameSequence):
    """Frames with given poses, never loaded."""

    dataset, name = "posed", "sequence"

    def __init__(self, poses):
        self._poses = poses

    frame_names = property(lambda self: tuple(str(number) for number in range(len(self._poses))))
    world_from_camera = property(lambda self: self._poses)

    def load(self, frames):
        raise AssertionError("choosing frames must not read them")


def turntable(count, step_deg):
    """Cameras on a circle of radius 1 that look at the origin."""
    poses = []
    for number in range(count):
        turn = so3.exp(np.array([0.0, np.deg2rad(step_deg) * number, 0.0]))
        poses.append(se3.from_rotation_translation(turn, -turn[:, 2]))
    return np.stack(poses)


def plain(length):
    return MiniatureDataset(MiniatureOptions(lengths=(length,), has_depth=False))[0]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), count=st.integers(1, 6), steps=st.sets(st.integers(1, 9), min_size=1), seed=st.integers(0, 99))
def test_clips_have_equal_allowed_steps_or_the_largest_that_fits(length, count, steps, seed):
    config = FrameSamplingConfig(num_frames=count, steps=tuple(steps))
    if length < count:
        with pytest.raises(TooFewFrames, match=f"{length} frames"):
            choose_frames(plain(length), config, np.random.default_rng(seed))
        return
    frames = choose_frames(plain(length), config, np.random.default_rng(seed))
    assert len(frames) == count
    assert 0 <= frames[0] <= frames[-1] < length
    if count > 1:
        (step,) = set(np.diff(frames))
        fitting = [step for step in steps if (count - 1) * step < length]
        assert step in fitting if fitting else step == (length - 1) // (count - 1)


def test_short_sequences_are_left_out_when_steps_must_not_shrink():
    config = FrameSamplingConfig(num_frames=4, steps=(10,), too_short="skip")
    with pytest.raises(TooFewFrames, match=r"30 frames .* steps \[10\]"):
        choose_frames(plain(30), config, np.random.default_rng(0))
    assert choose_frames(plain(31), config, np.random.default_rng(0)) == (0, 10, 20, 30)


def test_a_range_of_steps_draws_all_of_them():
    config = FrameSamplingConfig(num_frames=2, steps=(2,), max_step=5)
    drawn = {int(np.diff(choose_frames(plain(30), config, np.random.default_rng(seed)))[0]) for seed in range(60)}
    assert drawn == {2, 3, 4, 5}


def test_jog3r_draws_its_strides_and_reverses_half_of_the_time():
    config = FrameSamplingConfig(num_frames=3, steps=JOG3R_STEPS, reversal_probability=0.5)
    steps = [int(np.diff(choose_frames(plain(40), config, np.random.default_rng(seed)))[0]) for seed in range(400)]
    assert {abs(step) for step in steps} == {1, 2, 4, 8}
    assert 0.4 < np.mean(np.array(steps) < 0) < 0.6


def test_clips_of_3dpov_start_at_multiples_and_do_not_overlap():
    config = FrameSamplingConfig(mode="clips", num_frames=4, steps=(10,), too_short="skip")
    assert clip_starts(39, config) == ()
    assert clip_starts(40, config) == ((0, 10),)
    assert clip_starts(125, config) == ((0, 10), (40, 10), (80, 10))
    assert clip_frames(40, 10, config, np.random.default_rng(0)) == (40, 50, 60, 70)
    reduced = FrameSamplingConfig(mode="clips", num_frames=4, steps=(10,))
    assert clip_starts(9, reduced) == ((0, 2),)
    assert clip_starts(3, reduced) == ()


def test_random_frames_are_all_different_and_a_pair_has_two():
    frames = choose_frames(plain(8), FrameSamplingConfig(mode="random", num_frames=8), np.random.default_rng(0))
    assert sorted(frames) == list(range(8))
    assert frames != tuple(range(8))
    assert len(choose_frames(plain(8), FrameSamplingConfig(mode="pair"), np.random.default_rng(0))) == 2


def test_pairs_of_mef_are_never_turned_further_than_its_limit():
    sequence = PosedSequence(turntable(36, 10.0))
    config = FrameSamplingConfig(mode="pair", max_rotation_deg=MEF_MAX_ROTATION_DEG)
    gaps = set()
    for seed in range(300):
        first, second = choose_frames(sequence, config, np.random.default_rng(seed))
        gaps.add(min(abs(first - second), 36 - abs(first - second)))
    assert gaps == set(range(1, 13))


def test_clips_stay_within_the_baseline():
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, 0, 3] = np.cumsum([0.1] * 10 + [1.0] * 10)
    config = FrameSamplingConfig(num_frames=3, max_baseline=0.25)
    for seed in range(30):
        assert choose_frames(PosedSequence(poses), config, np.random.default_rng(seed))[-1] < 10
    with pytest.raises(TooFewFrames, match="overlap"):
        choose_frames(PosedSequence(poses[10:]), config, np.random.default_rng(0))


def test_frames_without_a_pose_are_not_chosen_when_poses_count():
    poses = turntable(10, 1.0)
    poses[::2] = np.nan
    config = FrameSamplingConfig(mode="random", num_frames=3, max_rotation_deg=90)
    for seed in range(20):
        assert all(frame % 2 for frame in choose_frames(PosedSequence(poses), config, np.random.default_rng(seed)))


def test_limits_on_poses_need_poses():
    with pytest.raises(InputError, match="miniature/s0: has no poses"):
        choose_frames(plain(8), FrameSamplingConfig(max_rotation_deg=30), np.random.default_rng(0))


def test_frustum_overlap_is_one_for_equal_views_falls_with_motion_and_is_symmetric():
    shift = np.tile(np.eye(4), (5, 1, 1))
    shift[:, 0, 3] = np.linspace(0, 2 * np.tan(np.deg2rad(30)), 5)
    overlap = frustum_overlap(shift, 1.0, 60.0)
    np.testing.assert_allclose(overlap, [1, 0.75, 0.5, 0.25, 0], atol=0.05)
    np.testing.assert_allclose(frustum_overlap(se3.inverse(shift), 1.0, 60.0), overlap)
    assert frustum_overlap(se3.exp(np.array([0, 0, 0, 0, np.pi, 0])), 1.0, 60.0) == 0
    config = FrameSamplingConfig(min_frustum_overlap=0.6, scene_depth=1.0)
    assert overlapping(shift, 0, np.arange(5), config).tolist() == [True, True, False, False, False]


def test_covisibility_counts_surface_that_both_see():
    sample = scene_sample()
    assert covisibility(sample, 0, 0) > 0.98
    shares = [covisibility(sample, 0, other) for other in range(4)]
    assert shares == sorted(shares, reverse=True)
    assert 0.2 < shares[3] < 0.95
    assert is_covisible(sample, FrameSamplingConfig(min_covisibility=shares[3] - 0.01))
    assert not is_covisible(sample, FrameSamplingConfig(min_covisibility=shares[3] + 0.01))


@pytest.mark.parametrize("wrong", [{"steps": ()}, {"steps": (0,)}, {"steps": (4,), "max_step": 2}, {"min_frustum_overlap": 0.5}])
def test_settings_that_make_no_sense_are_errors(wrong):
    with pytest.raises(ConfigError, match="FrameSamplingConfig"):
        FrameSamplingConfig(**wrong)
