"""Pairs of views with points of their surfaces: drawn from depth, or from the points that a set follows (COLMAP models)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception_training.data.collation import Batch
from perception_training.data.frame_sampling import FrameSamplingConfig, choose_frames
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset, FrameSequence

NORMALISED_SETS = ("objaverse", "mesh_views")
"""Data sets whose worlds are objects with 1 as their longest side, the unit of MEF's thresholds."""
_EXTENT_QUANTILES = (0.02, 0.98)


@dataclass(frozen=True, kw_only=True)
class PairPointsConfig(Checked):
    """Which points are compared."""

    num_points: Annotated[int, Range(1, 100_000)] = 3000
    """Points drawn in each view on its own, on the object where masks say where that is; with repeats where there are fewer."""
    min_points: Annotated[int, Range(1)] = 16
    """A view in which fewer points are known is empty: its pair has no loss."""
    scale: Literal["auto", "as_is", "extent"] = "auto"
    """Unit of the thresholds. as_is: that of the data; extent: the longest side of what both views see (without the outermost 2 %); auto: as_is for
    normalised objects (Objaverse renders, mesh views), otherwise extent."""


@dataclass(frozen=True, eq=False)
class PairPoints:
    """points_px (pair, 2, n, 2) float32 as (x, y) in the pixels of each view · points_world (pair, 2, n, 3) float64 in one frame for both views;
    all NaN where a view is empty."""

    points_px: Float[Tensor, "pair 2 n 2"]
    points_world: Float[Tensor, "pair 2 n 3"]


def draw_points(batch: Batch, config: PairPointsConfig) -> PairPoints:
    """Points of the pairs in a batch of samples of two frames, drawn by torch's generator of the CPU.

    Surfaces that move in the world are left out. Raises InputError that names the sample when it has neither depth with cameras and poses nor
    tracked points with their places in the world, or not two frames.
    """
    if batch.images.shape[1] != 2:
        raise InputError(f"{batch.datasets[0]}/{batch.sequences[0]}: sample of {batch.images.shape[1]} frames; must be a pair")
    drawn = [[_of_view(batch, row, view, config.num_points, config.min_points) for view in (0, 1)] for row in range(len(batch))]
    pixels = torch.stack([torch.stack([view[0] for view in views]) for views in drawn])
    world = torch.stack([torch.stack([view[1] for view in views]) for views in drawn])
    for row, name in enumerate(batch.datasets):
        if config.scale == "extent" or (config.scale == "auto" and name not in NORMALISED_SETS):
            world[row] = _in_extents(world[row])
    return PairPoints(pixels, world)


def _of_view(batch: Batch, row: int, view: int, num: int, least: int) -> tuple[Tensor, Tensor]:
    """Pixels (num, 2) and points (num, 3) of one view; NaN when it has fewer than `least`."""
    has_depth = batch.depth_m is not None and bool(batch.has_depth[row, view])
    if has_depth and bool(batch.has_camera[row, view] & batch.has_pose[row, view]):
        pixels, world = _from_depth(batch, row, view, num, least)
    elif batch.track_points_world is not None:
        pixels, world = _from_tracks(batch, row, view, num, least)
    elif batch.depth_m is not None and not has_depth:
        pixels, world = None, None  # a view in which the augmentation left nothing of the object
    else:
        place = f"{batch.datasets[row]}/{batch.sequences[row]}/{batch.frame_names[row][view]}"
        raise InputError(f"{place}: pairs need depth with camera and pose, or tracked points with their places in the world; this frame has neither")
    if pixels is None or world is None:
        return batch.images.new_full((num, 2), torch.nan, dtype=torch.float32), batch.images.new_full((num, 3), torch.nan, dtype=torch.float64)
    return pixels, world


def _drawn(num_known: int, num: int, device: torch.device) -> Tensor:
    """`num` of `num_known` numbers: without repeats when there are enough."""
    if num_known >= num:
        return torch.randperm(num_known)[:num].to(device)
    return torch.randint(num_known, (num,)).to(device)


def _from_depth(batch: Batch, row: int, view: int, num: int, least: int) -> tuple[Tensor | None, Tensor | None]:
    assert batch.depth_m is not None
    depth = batch.depth_m[row, view]
    usable = depth > 0
    if batch.masks is not None and bool(batch.has_masks[row, view]):
        usable &= batch.masks[row, view] > 0
    if batch.dynamic is not None and bool(batch.has_dynamic[row]):
        usable &= ~batch.dynamic[row, view]
    places = usable.flatten().nonzero()[:, 0]
    if len(places) < least:
        return None, None
    places = places[_drawn(len(places), num, places.device)]
    pixels = torch.stack([places % depth.shape[1], places // depth.shape[1]], dim=1).double()
    focal = batch.intrinsics[row, view].diagonal()[:2]
    rays = (pixels - batch.intrinsics[row, view, :2, 2]) / focal
    z = depth.flatten()[places].double()[:, None]
    pose = batch.world_from_camera[row, view]
    return pixels.float(), torch.cat([rays * z, z], dim=1) @ pose[:3, :3].T + pose[:3, 3]


def _from_tracks(batch: Batch, row: int, view: int, num: int, least: int) -> tuple[Tensor | None, Tensor | None]:
    assert batch.track_points_px is not None
    assert batch.track_points_world is not None
    assert batch.track_known is not None
    assert batch.track_visible is not None
    assert batch.track_world_known is not None
    pixels = batch.track_points_px[row, view]
    size = torch.tensor(batch.images.shape[:-3:-1], device=pixels.device)
    seen = batch.track_known[row, view] & batch.track_visible[row, view] & batch.track_world_known[row, view]
    seen &= ((pixels >= 0) & (pixels <= size - 1)).all(1)
    places = seen.nonzero()[:, 0]
    if batch.masks is not None and bool(batch.has_masks[row, view]):
        column, line = pixels[places].round().long().unbind(1)
        places = places[batch.masks[row, view, line, column] > 0]
    if len(places) < least:
        return None, None
    places = places[_drawn(len(places), num, places.device)]
    return pixels[places], batch.track_points_world[row, view, places].double()


def _in_extents(world: Tensor) -> Tensor:
    """Points (2, n, 3) with the longest side of their bounding box as unit."""
    known = world.reshape(-1, 3)
    known = known[known.isfinite().all(1)]
    if not len(known):
        return world
    low, high = known.quantile(torch.tensor(_EXTENT_QUANTILES, dtype=known.dtype, device=known.device), dim=0)
    return (world - (low + high) / 2) / (high - low).max().clamp(min=torch.finfo(known.dtype).tiny)


class ChosenSequences(Dataset):
    """Some sequences of a data set, drawn by a seed, for training on few objects; with `one_pair` only two frames of each."""

    def __init__(self, dataset: Dataset, num_sequences: int, seed: int, *, skip: int = 0, one_pair: FrameSamplingConfig | None = None) -> None:
        """The first `skip` of the drawn order are left out, so that others can be held out. num_sequences 0: all others."""
        self.dataset, self.root, self.options = dataset, dataset.root, dataset.options
        self.name = dataset.name  # type: ignore[misc]
        self._one_pair, self._seed = one_pair, seed
        order = np.random.default_rng(seed).permutation(len(dataset.sequence_names))[skip:]
        if len(order) < max(1, num_sequences):
            raise InputError(
                f"{dataset.name} {dataset.root}: {len(dataset)} sequences; must be at least {skip + max(1, num_sequences)} "
                f"({skip} are held out or left out, {num_sequences or 'the others'} are asked for)"
            )
        kept = sorted(order[: num_sequences or None].tolist())
        self.sequence_names = tuple(dataset.sequence_names[number] for number in kept)

    def _list_sequences(self) -> tuple[str, ...]:
        return self.sequence_names

    def open_sequence(self, name: str) -> FrameSequence:
        sequence = self.dataset.open_sequence(name)
        if self._one_pair is None:
            return sequence
        return ChosenFrames(sequence, choose_frames(sequence, self._one_pair, np.random.default_rng(self._seed)))


class KeptFrames(Dataset):
    """A data set whose frames are kept once they are loaded, for an evaluation that asks for the same few again and again."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.root, self.options = dataset, dataset.root, dataset.options
        self.name = dataset.name  # type: ignore[misc]
        self.sequence_names = dataset.sequence_names
        self._opened: dict[str, ChosenFrames] = {}

    def _list_sequences(self) -> tuple[str, ...]:
        return self.sequence_names

    def open_sequence(self, name: str) -> FrameSequence:
        if name not in self._opened:
            sequence = self.dataset.open_sequence(name)
            self._opened[name] = ChosenFrames(sequence, range(len(sequence)))
        return self._opened[name]


class ChosenFrames(FrameSequence):
    """Few frames of a sequence. What was loaded is kept, since it will be asked for again and again."""

    def __init__(self, sequence: FrameSequence, frames: Sequence[int]) -> None:
        self.sequence, self.frames = sequence, tuple(frames)
        self.dataset, self.name = sequence.dataset, sequence.name
        self._loaded: dict[tuple[int, ...], Sample] = {}

    @property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(self.sequence.frame_names[frame] for frame in self.frames)

    @property
    def world_from_camera(self) -> NDArray[np.float64] | None:
        poses = self.sequence.world_from_camera
        return None if poses is None else poses[list(self.frames)]

    def load(self, frames: Sequence[int]) -> Sample:
        key = tuple(self.frames[frame] for frame in frames)
        if key not in self._loaded:
            self._loaded[key] = self.sequence.load(key)
        return self._loaded[key]

    def source(self, frame: int) -> str:
        return self.sequence.source(self.frames[frame])
