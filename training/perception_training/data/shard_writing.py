"""Write shards: each file appears only when it is whole, and a run that was stopped goes on after its last finished shard."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import InputError, PerceptionError
from perception_training.data.frame_coding import CodingConfig
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset
from perception_training.data.shards import FORMAT, HEADER_BYTES, LIST_FILE, VERSION, EncodedClip, encode_clip, encode_sample, padded
from perception_training.data.worker_processes import begin_worker, worker_context


@dataclass(frozen=True, kw_only=True)
class ShardConfig(Checked):
    """What is stored, and how."""

    frames: Annotated[int, Range(0)] = 0
    """Frames for each clip; 0 stores whole sequences."""
    step: Annotated[int, Range(1)] = 1
    """Step between the frames that are stored."""
    shard_size_mb: Annotated[float, Range(0.001, None, "MB")] = 256.0
    """A shard is closed before it grows beyond this, unless one clip alone is larger."""
    coding: CodingConfig = field(default_factory=CodingConfig)


@dataclass(frozen=True)
class ShardSummary:
    """What lies in the folder in the end. num_clips and num_bytes over all shards, resumed ones among them; skipped: why, for each clip left out."""

    num_shards: int
    num_clips: int
    num_bytes: int
    skipped: tuple[str, ...]


def write_dataset(
    dataset: Dataset,
    out: str | Path,
    config: ShardConfig,
    *,
    skip_bad: bool = False,
    num_workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ShardSummary:
    """Store a data set. Clips do not overlap; the frames that are left at the end of a sequence, fewer than a clip, are not stored.

    Raises InputError for a clip that cannot be read unless `skip_bad`, and when `out` holds shards of something else.
    """
    job = {"dataset": dataset.name, "root": str(dataset.root.resolve()), "options": to_mapping(dataset.options), "config": to_mapping(config)}
    writer = ShardWriter(out, job, config.shard_size_mb)
    if writer.is_complete:
        return writer.finish()
    names = dataset.sequence_names
    results = _encoded(dataset, names[writer.num_items :], config, num_workers)
    with writer:
        for done, item in enumerate(results, start=writer.num_items + 1):
            if item.bad and not skip_bad:
                raise InputError(item.bad[0])
            writer.add(item.clips, (*item.too_short, *item.bad))
            progress(done, len(names))
        return writer.finish()


def write_samples(samples: Iterable[Sample], out: str | Path, config: ShardConfig, job: Mapping[str, Any]) -> ShardSummary:
    """Store samples, such as a renderer makes, as clips named SEQUENCE@NUMBER. `job` says what they are; with an equal one a second run goes on
    after the samples that are stored already, which are taken from the iterator and dropped."""
    writer = ShardWriter(out, {**job, "config": to_mapping(config)}, config.shard_size_mb)
    if writer.is_complete:
        return writer.finish()
    with writer:
        for number, sample in enumerate(itertools.islice(samples, writer.num_items, None), start=writer.num_items):
            writer.add([encode_sample(f"{sample.sequence}@{number:06d}", sample, config.coding)])
        return writer.finish()


@dataclass(frozen=True, eq=False)
class EncodedSequence:
    """The clips of a sequence, why others of it cannot be read, and what has too few frames for any."""

    clips: tuple[EncodedClip, ...] = ()
    bad: tuple[str, ...] = ()
    too_short: tuple[str, ...] = ()


class ShardWriter:
    """Adds items (a sequence with its clips, or a sample) to shards. `num_items` are finished already; `finish` when all have been added."""

    def __init__(self, out: str | Path, job: Mapping[str, Any], shard_size_mb: float) -> None:
        self._out, self._max_bytes = Path(out), int(shard_size_mb * 1e6)
        self._out.mkdir(parents=True, exist_ok=True)
        self._listing: dict[str, Any] = {"format": FORMAT, "version": VERSION, "complete": False, "job": dict(job), "shards": [], "skipped": []}
        self._resume()
        self.num_items = sum(shard["num_items"] for shard in self._listing["shards"])
        self._num_clips = sum(shard["num_clips"] for shard in self._listing["shards"])
        self._num_begun = self._listing["shards"][-1]["num_begun"] if self._listing["shards"] else 0
        self._tar: tarfile.TarFile | None = None
        self._index: dict[str, tuple[int, int]] = {}
        self._pending_items, self._pending_reasons = 0, list[str]()

    def _resume(self) -> None:
        """Take over the finished shards of an equal job."""
        path = self._out / LIST_FILE
        for part in self._out.glob("*.part"):
            part.unlink()
        if not path.exists():
            return
        try:
            before = json.loads(path.read_bytes())
            same = before["format"] == FORMAT and before["version"] == VERSION and before["job"] == json.loads(json.dumps(self._listing["job"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a list of shards ({error}); write into another folder, or delete this one") from error
        if not same:
            raise InputError(f"{path}: shards of another job lie here; write into another folder, or delete this one. There: {before['job']}")
        self._listing = before

    @property
    def is_complete(self) -> bool:
        """Whether an earlier run finished the same job."""
        return bool(self._listing["complete"])

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._tar is not None:
            self._tar.close()

    @property
    def _tar_path(self) -> Path:
        return self._out / f"shard-{len(self._listing['shards']):06d}.tar"

    def add(self, clips: Iterable[EncodedClip], reasons: Iterable[str] = ()) -> None:
        """One item: its clips, and why others of it were left out. Clips that a finished shard holds already are dropped."""
        for place, clip in enumerate(clips):
            if place < self._num_begun:
                continue
            description = _describe(clip)
            size = _tar_bytes([description, *clip.members.values()])
            if self._tar is not None and self._index and self._tar.offset + size > self._max_bytes:
                self._close_shard(num_begun=place)
            self._write(clip, description)
        self._num_begun = 0
        self._pending_items += 1
        self._pending_reasons += reasons

    def _write(self, clip: EncodedClip, description: bytes) -> None:
        if self._tar is None:
            self._tar = tarfile.open(self._part(self._tar_path), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        key = f"{self._num_clips:08d}"
        self._index[clip.name] = (self._add_member(f"{key}.sample.json", description), len(description))
        for suffix, member in clip.members.items():
            self._add_member(f"{key}.{suffix}", member)
        self._num_clips += 1

    def finish(self) -> ShardSummary:
        """Close the last shard and mark the folder as complete."""
        if self._tar is not None:
            self._close_shard()
        self._listing["skipped"] += self._pending_reasons
        self._pending_reasons = []
        self._listing["complete"] = True
        self._write_json(self._out / LIST_FILE, self._listing)
        shards = self._listing["shards"]
        return ShardSummary(len(shards), self._num_clips, sum(shard["bytes"] for shard in shards), tuple(self._listing["skipped"]))

    def _add_member(self, name: str, data: bytes) -> int:
        """Where the bytes of the new member start."""
        assert self._tar is not None
        start = self._tar.offset + HEADER_BYTES
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, BytesIO(data))
        return int(start)

    def _close_shard(self, num_begun: int = 0) -> None:
        """The tar file, its index and the list, each in one step and in this order: what the list names is there.

        num_begun: how many clips of the item that is being written are in this or an earlier shard.
        """
        assert self._tar is not None
        path = self._tar_path
        self._tar.close()
        self._tar = None
        os.replace(self._part(path), path)
        self._write_json(path.with_suffix(".index.json"), self._index)
        counts = {"num_items": self._pending_items, "num_clips": len(self._index), "num_begun": num_begun}
        self._listing["shards"].append({"file": path.name, "bytes": path.stat().st_size, **counts})
        self._listing["skipped"] += self._pending_reasons
        self._write_json(self._out / LIST_FILE, self._listing)
        self._index, self._pending_items, self._pending_reasons = {}, 0, []

    def _write_json(self, path: Path, content: Mapping[str, Any]) -> None:
        part = self._part(path)
        part.write_text(json.dumps(content))
        os.replace(part, path)

    @staticmethod
    def _part(path: Path) -> Path:
        return path.with_name(path.name + ".part")


def _describe(clip: EncodedClip) -> bytes:
    members = [[suffix, len(data)] for suffix, data in clip.members.items()]
    return json.dumps({**clip.description, "members": members}, allow_nan=False).encode()


def _tar_bytes(members: Iterable[bytes]) -> int:
    return sum(HEADER_BYTES + padded(len(data)) for data in members)


def encode_sequence(dataset: Dataset, name: str, config: ShardConfig) -> EncodedSequence:
    """All that is stored of one sequence."""
    try:
        sequence = dataset.open_sequence(name)
    except PerceptionError as error:
        return EncodedSequence(bad=(str(error),))
    frames = range(0, len(sequence), config.step)
    length = config.frames or len(frames)
    if len(frames) < length:
        reason = f"{dataset.name}/{name}: {len(sequence)} frames are too few for a clip of {length} at step {config.step}"
        return EncodedSequence(too_short=(reason,))
    clips: list[EncodedClip] = []
    bad: list[str] = []
    for start in range(0, len(frames) - length + 1, length):
        chosen = frames[start : start + length]
        try:
            clips.append(encode_clip(f"{name}@{chosen[0]:06d}" if config.frames else name, sequence, chosen, config.coding))
        except PerceptionError as error:
            bad.append(str(error))
    return EncodedSequence(tuple(clips), tuple(bad))


def _encoded(dataset: Dataset, names: tuple[str, ...], config: ShardConfig, num_workers: int) -> Iterator[EncodedSequence]:
    """The results of `encode_sequence` in order, from worker processes that are at most two sequences each ahead."""
    if num_workers == 0:
        for name in names:
            yield encode_sequence(dataset, name, config)
        return
    waiting: deque[Future] = deque()
    with ProcessPoolExecutor(num_workers, worker_context(__name__), begin_worker) as pool:
        try:
            for name in names:
                waiting.append(pool.submit(encode_sequence, dataset, name, config))
                if len(waiting) >= 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                f"{dataset.name} {dataset.root}: a worker process ended by itself, as it does without memory; use fewer workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()
