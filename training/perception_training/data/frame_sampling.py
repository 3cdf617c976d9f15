"""Which frames of a sequence make a sample: clips, pairs and random sets, limited to views that overlap.

Nothing is read here but the number of frames and the poses. `choose_frames` depends on its generator only, so that a stream can be repeated.

Sequences that are shorter than `num_frames` at the wanted step: `reduce_step` takes the largest step that fits instead (at step 1 it needs
`num_frames` frames); `skip` leaves them out. Where no choice is left a TooFewFrames is raised, which mixtures count apart from bad samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, InputError
from perception.geometry import se3
from perception_training.data.sample import Sample
from perception_training.data.sequences import FrameSequence

Mode = Literal["clip", "clips", "random", "pair"]
MEF_MAX_ROTATION_DEG = 120.0
"""Pairs of views further apart are rejected in the training of MEF (3DCorrEnhance, data_utils/dataset.py)."""
JOG3R_STEPS = (1, 2, 4, 8)
"""Strides of the clips on which JOG3R is trained, reversed half of the time."""

_NUM_RAYS = 12
_COVISIBILITY_STRIDE_PX = 8


class TooFewFrames(InputError):
    """The sequence has no such choice of frames: too short, or too few views that overlap."""


@dataclass(frozen=True, kw_only=True)
class FrameSamplingConfig(Checked):
    """Which frames make a sample."""

    mode: Mode = "clip"
    """clip: frames at equal steps from a random start; clips: the non-overlapping clips of the sequence at starts 0, n step, 2 n step, each a
    sample of its own; random: any frames, in random order; pair: any two."""
    num_frames: Annotated[int, Range(1)] = 4
    """Frames for each sample; `pair` always takes 2."""
    steps: tuple[int, ...] = (1,)
    """Steps between neighbouring frames of a clip, from which one is drawn; `clips` takes the first."""
    max_step: Annotated[int, Range(0)] = 0
    """Above 0: every step from the smallest of `steps` to this one may be drawn."""
    too_short: Literal["reduce_step", "skip"] = "reduce_step"
    """Sequences too short for every step: take the largest that fits, or leave them out."""
    reversal_probability: Annotated[float, Range(0.0, 1.0)] = 0.0
    """How often the frames are handed out in reverse."""
    max_rotation_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 180.0
    """Largest rotation between the first frame and any other; 180 sets no limit."""
    max_baseline: Annotated[float, Range(0.0)] = 0.0
    """Largest distance of any camera from the first, in the unit of the data set; 0 sets no limit."""
    min_frustum_overlap: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Smallest share of what the first frame sees at `scene_depth` that lies in the view of each other frame, and the other way round."""
    scene_depth: Annotated[float, Range(0.0)] = 0.0
    """Depth for `min_frustum_overlap`, in the unit of the data set."""
    field_of_view_deg: Annotated[float, Range(1.0, 170.0, "deg")] = 60.0
    """Opening of the square view that `min_frustum_overlap` assumes."""
    min_covisibility: Annotated[float, Range(0.0, 1.0)] = 0.0
    """Smallest share of the first frame's surface that each other frame sees, measured with depth after loading; 0 does not look."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps or min(self.steps) < 1:
            raise ConfigError(f"FrameSamplingConfig.steps = {list(self.steps)}: must be at least one step of 1 or more")
        if self.max_step and self.max_step < min(self.steps):
            raise ConfigError(f"FrameSamplingConfig.max_step = {self.max_step}: must be 0 or at least the smallest of steps, {min(self.steps)}")
        if self.min_frustum_overlap > 0 and self.scene_depth == 0:
            raise ConfigError("FrameSamplingConfig.scene_depth = 0: must be positive for min_frustum_overlap")

    @property
    def count(self) -> int:
        """Frames for each sample."""
        return 2 if self.mode == "pair" else self.num_frames

    @property
    def allowed_steps(self) -> tuple[int, ...]:
        """All steps that may be drawn."""
        return tuple(range(min(self.steps), self.max_step + 1)) if self.max_step else tuple(sorted(set(self.steps)))

    @property
    def needs_poses(self) -> bool:
        """Whether views are limited by their poses."""
        return self.max_rotation_deg < 180 or self.max_baseline > 0 or self.min_frustum_overlap > 0


def clip_starts(num_frames: int, config: FrameSamplingConfig) -> tuple[tuple[int, int], ...]:
    """(start, step) of the non-overlapping clips of a sequence of `num_frames` frames, in order; empty when it is too short.

    As in 3DPoV (Ioana-Simion/3DPoV, data_loader.py): starts 0, n step, 2 n step, ... while n step frames are left from there on.
    """
    step = config.steps[0]
    if num_frames < config.count * step and config.too_short == "reduce_step":
        step = num_frames // config.count
    if step == 0:
        return ()
    return tuple((start, step) for start in range(0, num_frames - config.count * step + 1, config.count * step))


def clip_frames(start: int, step: int, config: FrameSamplingConfig, random: np.random.Generator) -> tuple[int, ...]:
    """The frames of one of the clips of `clip_starts`."""
    return _reversed_at_times([start + step * place for place in range(config.count)], config, random)


def choose_frames(sequence: FrameSequence, config: FrameSamplingConfig, random: np.random.Generator) -> tuple[int, ...]:
    """Frames of one sample. Raises TooFewFrames when the sequence has no choice that fulfils `config`."""
    if len(sequence) < config.count:
        raise TooFewFrames(f"{sequence.dataset}/{sequence.name}: {len(sequence)} frames; must be at least {config.count}")
    if config.mode == "clips":
        starts = clip_starts(len(sequence), config)
        if not starts:
            raise _no_choice(sequence, config)
        start, step = starts[random.integers(len(starts))]
        return clip_frames(start, step, config, random)
    poses = _needed_poses(sequence, config)
    frames = _choose_clip(sequence, poses, config, random) if config.mode == "clip" else _choose_set(sequence, poses, config, random)
    return _reversed_at_times(frames, config, random)


def overlapping(poses: NDArray[np.float64], first: int, others: NDArray[np.int64], config: FrameSamplingConfig) -> NDArray[np.bool_]:
    """Which frames `others` (any shape) have a pose and overlap with frame `first`, by the limits of `config`. poses (F, 4, 4)."""
    world_from_first, world_from_other = poses[first], poses[others]
    first_from_other = se3.inverse(world_from_first) @ world_from_other
    with np.errstate(invalid="ignore"):
        allowed = np.isfinite(first_from_other).all(axis=(-2, -1))
        cosine = np.clip((np.trace(first_from_other[..., :3, :3], axis1=-2, axis2=-1) - 1) / 2, -1, 1)
        allowed &= np.rad2deg(np.arccos(cosine)) <= config.max_rotation_deg
        if config.max_baseline > 0:
            allowed &= np.linalg.norm(first_from_other[..., :3, 3], axis=-1) <= config.max_baseline
        if config.min_frustum_overlap > 0:
            allowed &= frustum_overlap(first_from_other, config.scene_depth, config.field_of_view_deg) >= config.min_frustum_overlap
    return np.asarray(allowed, np.bool_)


def frustum_overlap(first_from_other: NDArray[np.float64], depth: float, field_of_view_deg: float) -> NDArray[np.float64]:
    """Share (...) of a square view's rays, cut at `depth`, that end inside the other view; the smaller of both directions. Poses (..., 4, 4)."""
    half = np.tan(np.deg2rad(field_of_view_deg) / 2)
    line = (np.arange(_NUM_RAYS) + 0.5) / _NUM_RAYS * 2 - 1
    x, y = np.meshgrid(line * half, line * half)
    points = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) * depth
    shares = []
    for a_from_b in (first_from_other, se3.inverse(first_from_other)):
        seen = se3.transform_points(a_from_b, points)
        with np.errstate(invalid="ignore"):
            inside = (seen[..., 2] > 0) & (np.abs(seen[..., :2]) <= half * seen[..., 2:]).all(-1)
        shares.append(inside.mean(-1))
    return np.minimum(*shares)


def covisibility(sample: Sample, first: int, other: int, tolerance: float = 0.05) -> float:
    """Share of the points of frame `first` with known depth that frame `other` sees at the same depth (within the share `tolerance` of it).

    Measured on every 8th pixel. Raises InputError when depth, intrinsics or poses are missing; NaN when no depth is known.
    """
    from perception.geometry.camera import project

    points = sample.points_world(first)[::_COVISIBILITY_STRIDE_PX, ::_COVISIBILITY_STRIDE_PX].reshape(-1, 3)
    points = points[np.isfinite(points).all(1)].astype(np.float64)
    camera = sample.cameras[other] if sample.cameras is not None else None
    if camera is None or sample.world_from_camera is None or sample.depth_m is None:
        raise InputError(f"{sample.place(other)}: covisibility needs depth, intrinsics and pose; this frame lacks some of them")
    if not len(points):
        return float("nan")
    in_other = se3.transform_points(se3.inverse(sample.world_from_camera[other]), points)
    nearest = np.rint(np.nan_to_num(project(in_other, camera), nan=-1.0))
    inside = ((nearest >= 0) & (nearest < (camera.width, camera.height))).all(1)
    col, row = np.where(inside[:, None], nearest, 0).astype(np.int64).T
    depth = sample.depth_m[other][row, col]
    return float((inside & (depth > 0) & (np.abs(in_other[:, 2] - depth) <= tolerance * depth)).mean())


def is_covisible(sample: Sample, config: FrameSamplingConfig) -> bool:
    """Whether every frame sees enough of the first one's surface, by `min_covisibility`."""
    return config.min_covisibility == 0 or all(covisibility(sample, 0, other) >= config.min_covisibility for other in range(1, len(sample)))


def _largest_step(num_frames: int, count: int) -> int:
    """Largest step at which `count` frames fit into `num_frames`; 0 when none does."""
    return (1 if num_frames >= 1 else 0) if count == 1 else (num_frames - 1) // (count - 1)


def _needed_poses(sequence: FrameSequence, config: FrameSamplingConfig) -> NDArray[np.float64] | None:
    if not config.needs_poses:
        return None
    poses = sequence.world_from_camera
    if poses is None:
        raise InputError(f"{sequence.dataset}/{sequence.name}: has no poses, by which overlapping frames could be chosen")
    return poses


def _choose_clip(sequence: FrameSequence, poses: NDArray[np.float64] | None, config: FrameSamplingConfig, random: np.random.Generator) -> list[int]:
    """Draw a step among those that fit, then a start among those whose frames overlap."""
    count, length = config.count, len(sequence)
    fitting = [step for step in config.allowed_steps if (count - 1) * step < length]
    if not fitting and config.too_short == "reduce_step":
        fitting = [_largest_step(length, count)]
    for place in random.permutation(len(fitting)):
        step = fitting[place]
        starts = np.arange(length - (count - 1) * step)
        if poses is not None:
            clips = starts[:, None] + step * np.arange(count)
            starts = np.array([start for start in starts if overlapping(poses, start, clips[start], config).all()], np.int64)
        if len(starts):
            start = int(starts[random.integers(len(starts))])
            return [start + step * number for number in range(count)]
    raise _no_choice(sequence, config)


def _choose_set(sequence: FrameSequence, poses: NDArray[np.float64] | None, config: FrameSamplingConfig, random: np.random.Generator) -> list[int]:
    """Draw the first frame, then the others among those that overlap with it, all different."""
    everything = np.arange(len(sequence))
    for first in random.permutation(len(sequence)):
        candidates = everything[everything != first]
        if poses is not None:
            candidates = candidates[overlapping(poses, int(first), candidates, config)]
        if len(candidates) >= config.count - 1 and (poses is None or np.isfinite(poses[first]).all()):
            return [int(first), *(int(frame) for frame in random.choice(candidates, config.count - 1, replace=False))]
    raise _no_choice(sequence, config)


def _reversed_at_times(frames: list[int], config: FrameSamplingConfig, random: np.random.Generator) -> tuple[int, ...]:
    return tuple(reversed(frames)) if random.random() < config.reversal_probability else tuple(frames)


def _no_choice(sequence: FrameSequence, config: FrameSamplingConfig) -> TooFewFrames:
    limits = " with views that overlap as asked" if config.needs_poses else f" at steps {list(config.allowed_steps)}"
    return TooFewFrames(f"{sequence.dataset}/{sequence.name}: among its {len(sequence)} frames there are no {config.count}{limits}")
