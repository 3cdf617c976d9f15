"""Walk a copy of a data set: load every frame, count what is there, and collect what is bad instead of stopping at it."""

from __future__ import annotations

import functools
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from perception.core.config import Checked, to_mapping
from perception.core.errors import InputError, PerceptionError
from perception_training.data.decoder_messages import decoder_complaints
from perception_training.data.sample import Sample, check_pose
from perception_training.data.sequences import Dataset, FrameSequence
from perception_training.data.worker_processes import begin_worker, worker_context

FIELDS = ("intrinsics", "pose", "depth", "masks", "normals", "tracks", "objects", "text", "times")
"""What a frame may have, as `FrameCounts.present` counts it."""

_CHUNK_FRAMES = 32


@dataclass(frozen=True)
class Problem:
    """Something bad: the frame it was found at (empty: the whole sequence) and a message that names the file."""

    sequence: str
    frame: str
    message: str


@dataclass
class FrameCounts:
    """What some frames have. sizes: (width, height) → frames · depth range over known values · points: most track points of a frame."""

    num_frames: int = 0
    present: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    depth_min: float = np.inf
    depth_max: float = 0.0
    known_depth_share: float = 0.0
    max_points: int = 0
    object_names: set[str] = field(default_factory=set)

    def add(self, sample: Sample) -> None:
        """Count the only frame of a sample."""
        self.num_frames += 1
        self.sizes[(sample.images[0].shape[1], sample.images[0].shape[0])] += 1
        self.units[sample.unit] += 1
        self.present.update(_fields_of(sample))
        if sample.depth_m is not None and (known := sample.depth_m[0][sample.depth_m[0] > 0]).size:
            self.depth_min, self.depth_max = min(self.depth_min, float(known.min())), max(self.depth_max, float(known.max()))
            self.known_depth_share += known.size / sample.depth_m[0].size
        if sample.tracks is not None:
            self.max_points = max(self.max_points, sample.tracks.num_points)
        self.object_names.update(item.name for item in sample.objects)

    def merge(self, other: FrameCounts) -> None:
        """Add what other frames have."""
        self.num_frames += other.num_frames
        self.present.update(other.present)
        self.sizes.update(other.sizes)
        self.units.update(other.units)
        self.depth_min, self.depth_max = min(self.depth_min, other.depth_min), max(self.depth_max, other.depth_max)
        self.known_depth_share += other.known_depth_share
        self.max_points = max(self.max_points, other.max_points)
        self.object_names |= other.object_names


@dataclass
class CheckReport:
    """Everything a walk found. num_sequences: in the copy · num_checked: of them, walked · num_bad_frames: that could not be loaded."""

    dataset: str
    root: Path
    options: dict[str, Any]
    num_sequences: int
    num_checked: int = 0
    num_bad_frames: int = 0
    counts: FrameCounts = field(default_factory=FrameCounts)
    problems: list[Problem] = field(default_factory=list)
    good_frames: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with every problem."""
        counts = self.counts
        has_depth = counts.present["depth"]
        return {
            "dataset": self.dataset,
            "root": str(self.root),
            "options": self.options,
            "sequences": {"in_copy": self.num_sequences, "checked": self.num_checked},
            "frames": {"good": counts.num_frames, "bad": self.num_bad_frames},
            "share_of_frames_with": {name: self.share(name) for name in FIELDS},
            "image_sizes": {f"{width}x{height}": count for (width, height), count in counts.sizes.most_common()},
            "units": dict(counts.units),
            "depth_range": [counts.depth_min, counts.depth_max] if has_depth else None,
            "known_depth_share": counts.known_depth_share / has_depth if has_depth else None,
            "max_track_points": counts.max_points,
            "objects": sorted(counts.object_names),
            "problems": [{"sequence": item.sequence, "frame": item.frame, "message": item.message} for item in self.problems],
        }

    def share(self, name: str) -> float:
        """Share of the good frames that have this; 0 without frames."""
        return self.counts.present[name] / self.counts.num_frames if self.counts.num_frames else 0.0


def _fields_of(sample: Sample) -> Iterator[str]:
    """Names of the FIELDS that the only frame of a sample has something in."""
    if sample.cameras is not None and sample.cameras[0] is not None:
        yield "intrinsics"
    if sample.has_pose[0]:
        yield "pose"
    if sample.depth_m is not None and (sample.depth_m[0] > 0).any():
        yield "depth"
    if sample.masks is not None and (sample.mask_known is None or sample.mask_known[0]):
        yield "masks"
    if sample.normals is not None:
        yield "normals"
    if sample.tracks is not None and sample.tracks.visible[0].any():
        yield "tracks"
    if any(
        np.isfinite(item.camera_from_object[0]).all() or (item.boxes_px is not None and np.isfinite(item.boxes_px[0]).all())
        for item in sample.objects
    ):
        yield "objects"
    if sample.text:
        yield "text"
    if sample.times_s is not None:
        yield "times"


def contradictions(sample: Sample, place: str) -> list[str]:
    """What is wrong with the only frame of a sample that could be loaded: a pose of an object that is no rotation, negative depth, a visible
    point nowhere."""
    found = []
    for item in sample.objects:
        try:
            check_pose(item.camera_from_object[0], f"{place}: object {item.name}")
        except InputError as error:
            found.append(str(error))
    if sample.depth_m is not None and (sample.depth_m[0] < 0).any():
        found.append(f"{place}: {int((sample.depth_m[0] < 0).sum())} pixels have negative depth: unknown depth must be 0")
    if sample.tracks is not None and (nowhere := sample.tracks.visible[0] & ~np.isfinite(sample.tracks.points_px[0]).all(-1)).any():
        found.append(f"{place}: {int(nowhere.sum())} track points are visible but nowhere")
    return found


@dataclass(frozen=True)
class _Chunk:
    """Some frames of one sequence, or (frames None) the question how many it has."""

    sequence: str
    frames: tuple[int, ...] | None


@dataclass
class _ChunkResult:
    chunk: _Chunk
    num_frames: int = 0
    counts: FrameCounts = field(default_factory=FrameCounts)
    problems: list[Problem] = field(default_factory=list)
    good_frames: list[int] = field(default_factory=list)


class _Walker:
    """Opens sequences of one copy and loads their frames; lives in each worker process."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        # Chunks of a sequence follow each other, and sequences may be large.
        self._open = functools.lru_cache(maxsize=2)(dataset.open_sequence)

    def walk(self, chunk: _Chunk) -> _ChunkResult:
        result = _ChunkResult(chunk)
        try:
            sequence = self._open(chunk.sequence)
            result.num_frames = len(sequence)
        except Exception as error:
            result.problems.append(Problem(chunk.sequence, "", _text(error)))
            return result
        for frame in chunk.frames or ():
            self._walk_frame(sequence, frame, result)
        return result

    def _walk_frame(self, sequence: FrameSequence, frame: int, result: _ChunkResult) -> None:
        name = sequence.frame_names[frame]
        sample = None
        with decoder_complaints() as complaints:
            try:
                sample = sequence.load([frame])
                messages = contradictions(sample, sequence.source(frame))
            except Exception as error:
                messages = [_text(error)]
        if sample is not None:
            messages += [f"{sequence.source(frame)}: the decoder conceals damage: {line}" for line in complaints]
            result.counts.add(sample)
            if not messages:
                result.good_frames.append(frame)
        result.problems += [Problem(result.chunk.sequence, name, message) for message in messages]


def _text(error: Exception) -> str:
    """The message of an error that a user can mend; of any other, also what kind it is: a reader must not let those through."""
    return str(error) if isinstance(error, PerceptionError) else f"unexpected {type(error).__name__} of the reader: {error}"


def check_dataset(
    dataset: Dataset,
    *,
    max_sequences: int = 0,
    frames_per_sequence: int = 0,
    num_workers: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CheckReport:
    """Load the frames of a copy one by one and report on them.

    max_sequences, frames_per_sequence: as many, evenly spaced; 0: all · num_workers: processes; 0: in this one · on_progress (frames done, frames).
    Raises InputError only when the walk itself cannot go on (a worker was killed).
    """
    options = to_mapping(dataset.options)
    report = CheckReport(dataset.name, dataset.root, options, len(dataset.sequence_names))
    names = [dataset.sequence_names[index] for index in _spaced(len(dataset.sequence_names), max_sequences)]
    with _Pool(dataset, num_workers) as pool:
        chunks: list[_Chunk] = []
        for result in pool.results([_Chunk(name, None) for name in names]):
            report.num_checked += 1
            report.problems += result.problems
            frames = _spaced(result.num_frames, frames_per_sequence)
            chunks += [_Chunk(result.chunk.sequence, frames[start : start + _CHUNK_FRAMES]) for start in range(0, len(frames), _CHUNK_FRAMES)]
        total, done = sum(len(chunk.frames or ()) for chunk in chunks), 0
        on_progress(0, total)
        for result in pool.results(chunks):
            done += len(result.chunk.frames or ())
            report.counts.merge(result.counts)
            report.num_bad_frames += len(result.chunk.frames or ()) - len(result.good_frames)
            report.problems += result.problems
            report.good_frames.setdefault(result.chunk.sequence, []).extend(result.good_frames)
            on_progress(done, total)
    return report


def _spaced(count: int, wanted: int) -> tuple[int, ...]:
    """Indices of `wanted` of `count` things, evenly spaced with the first and the last; all when 0."""
    if not wanted or wanted >= count:
        return tuple(range(count))
    return tuple(np.unique(np.linspace(0, count - 1, wanted).round().astype(int)).tolist())


class _Pool:
    """Walks chunks in worker processes, or in this one, and gives the results in order."""

    def __init__(self, dataset: Dataset, num_workers: int) -> None:
        self._root = dataset.root
        self._walker = _Walker(dataset)
        self._executor: ProcessPoolExecutor | None = None
        if num_workers:
            place = (type(dataset), dataset.root, dataset.options)
            self._executor = ProcessPoolExecutor(num_workers, worker_context(__name__), _start_worker, place)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def results(self, chunks: Sequence[_Chunk]) -> Iterable[_ChunkResult]:
        if self._executor is None:
            yield from map(self._walker.walk, chunks)
            return
        try:
            yield from self._executor.map(_walk_in_worker, chunks)
        except BrokenProcessPool as error:
            raise InputError(f"{self._root}: a worker process was killed, out of memory or by a decoder; try again with --num-workers 0") from error


_worker_walker: _Walker | None = None


def _start_worker(kind: type[Dataset], root: Path, options: Checked) -> None:
    global _worker_walker  # a process pool hands its tasks to plain functions, so the walker must be reachable from one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    begin_worker()
    _worker_walker = _Walker(kind(root, options))


def _walk_in_worker(chunk: _Chunk) -> _ChunkResult:
    assert _worker_walker is not None
    return _worker_walker.walk(chunk)
