"""Mixtures of data sets as one stream of samples, each a pure function of (seed, its number in the stream).

Because nothing but these two numbers is drawn on, the stream is the same for any number of workers, continues at any step, is dealt out to ranks by
number, and no worker has random state. A sample that cannot be read raises with its path; with `skip_bad` it is reported and replaced by another of
the same source, which is again a function of (seed, number, attempt).
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, from_mapping
from perception.core.errors import ConfigError, InputError, PerceptionError
from perception_training.data.augmentation import AugmentationConfig, augment
from perception_training.data.frame_sampling import FrameSamplingConfig, TooFewFrames, choose_frames, clip_frames, clip_starts, is_covisible
from perception_training.data.readers import open_dataset
from perception_training.data.sample import Sample
from perception_training.data.sequences import Dataset, FrameSequence

_MAX_ATTEMPTS = 20
_FRAMES, _CUT, _ORDER = 1, 2, 3
"""Separate the draws that share a seed: of frames, of what a cut source keeps, of the order of an epoch."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(Checked):
    """How sources become a stream."""

    seed: Annotated[int, Range(0)] = 0
    """Fixes every draw."""
    order: Literal["weighted", "union"] = "weighted"
    """weighted: each sample draws its source by weight, then one of its items with replacement; union: all items of all sources shuffled
    together, each once in an epoch."""
    cut: tuple[str, ...] = ()
    """union: sources that are cut to the number of items of the longest other one, by a random choice that the seed fixes."""
    skip_bad: bool = False
    """Report a sample that cannot be read and take another of its source; otherwise it is an error."""
    max_tracks: Annotated[int, Range(0)] = 0
    """Above 0: keep a random choice of so many tracks."""
    open_sequences: Annotated[int, Range(1)] = 64
    """Sequences of each source whose annotations a worker keeps in memory."""


@dataclass(frozen=True, eq=False)
class Source:
    """One data set in a mixture, how its frames are chosen and how they are augmented; a set can be in it twice in two variants."""

    name: str
    dataset: Dataset
    frames: FrameSamplingConfig = field(default_factory=FrameSamplingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"source {self.name}: weight = {self.weight}: must be positive (leave the source out instead of weight 0)")


def source_from_mapping(mapping: Mapping[str, Any], place: str = "source") -> Source:
    """A source from plain settings: `data_set` and `path`, and as far as wanted `name`, `options`, `frames`, `augmentation`, `weight`."""
    known = ("data_set", "path", "name", "options", "frames", "augmentation", "weight")
    unknown = sorted(set(mapping) - set(known))
    if unknown or not {"data_set", "path"} <= set(mapping):
        raise ConfigError(f"{place}: keys {sorted(mapping)}: must be data_set and path, and may be {', '.join(known[2:])}")
    return Source(
        name=mapping.get("name", mapping["data_set"]),
        dataset=open_dataset(mapping["data_set"], mapping["path"], mapping.get("options")),
        frames=from_mapping(FrameSamplingConfig, mapping.get("frames", {}), f"{place}.frames"),
        augmentation=from_mapping(AugmentationConfig, mapping.get("augmentation", {}), f"{place}.augmentation"),
        weight=float(mapping.get("weight", 1.0)),
    )


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out: the source, why (the message names the file), and whether it was bad or only had too few frames."""

    source: str
    reason: str
    is_bad: bool


@dataclass(frozen=True, eq=False)
class Drawn:
    """One sample of the stream and what was left out on the way to it."""

    sample: Sample
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class Item:
    """What a source counts as one: a sequence, or with `clips` one clip of it. start -1: the frames are drawn."""

    sequence: str
    start: int = -1
    step: int = 0


class Mixture:
    """The stream. `mixture[k]` is sample k; `num_items` is the length of an epoch of the union."""

    def __init__(self, sources: Sequence[Source], config: MixtureConfig | None = None) -> None:
        self.sources = tuple(sources)
        self.config = config if config is not None else MixtureConfig()
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"mixture of sources {names}: must be at least one, with different names")
        unknown = sorted(set(self.config.cut) - set(names))
        if unknown or (self.config.cut and self.config.order != "union"):
            raise ConfigError(
                f"MixtureConfig.cut = {list(self.config.cut)}: must name sources of a union; sources: {names}, order: {self.config.order}"
            )
        listed = [_list_items(source, self.config.skip_bad) for source in self.sources]
        self.skipped_at_start = tuple(entry for _, skipped in listed for entry in skipped)
        self.items = self._cut([items for items, _ in listed])
        self._probabilities = np.array([source.weight for source in self.sources]) / sum(source.weight for source in self.sources)
        self._ends = np.cumsum([len(items) for items in self.items])
        self._open: list[OrderedDict[str, FrameSequence]] = [OrderedDict() for _ in self.sources]

    def __getstate__(self) -> dict[str, Any]:
        """Without the open sequences: workers open their own."""
        return {**self.__dict__, "_open": [OrderedDict() for _ in self.sources]}

    @property
    def num_items(self) -> int:
        """Items of all sources together."""
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> Sample:
        return self.draw(number).sample

    def draw(self, number: int) -> Drawn:
        """Sample `number` (0, 1, 2, ...) with what was skipped for it. Raises InputError that names the file unless `skip_bad`."""
        source, item = self._place(number)
        skipped: list[Skipped] = []
        for attempt in range(_MAX_ATTEMPTS):
            random = np.random.default_rng((self.config.seed, _FRAMES, number, attempt))
            if attempt:
                item = self.items[source][random.integers(len(self.items[source]))]
            try:
                return Drawn(self._load(source, item, random), tuple(skipped))
            except TooFewFrames as error:
                skipped.append(Skipped(self.sources[source].name, str(error), is_bad=False))
            except PerceptionError as error:
                if not self.config.skip_bad:
                    raise
                skipped.append(Skipped(self.sources[source].name, str(error), is_bad=True))
        raise InputError(f"source {self.sources[source].name}: {_MAX_ATTEMPTS} samples in a row could not be used; the last: {skipped[-1].reason}")

    def _place(self, number: int) -> tuple[int, Item]:
        """Source and item of sample `number`, before any replacement."""
        if self.config.order == "union":
            epoch, place = divmod(number, self.num_items)
            flat = int(_permutation(self.config.seed, epoch, self.num_items)[place])
            source = int(np.searchsorted(self._ends, flat, side="right"))
            return source, self.items[source][flat - int(self._ends[source])]
        random = np.random.default_rng((self.config.seed, number))
        source = int(random.choice(len(self.sources), p=self._probabilities))
        return source, self.items[source][random.integers(len(self.items[source]))]

    def _load(self, source: int, item: Item, random: np.random.Generator) -> Sample:
        entry = self.sources[source]
        sequence = self._sequence(source, item.sequence)
        for _ in range(_MAX_ATTEMPTS):
            is_clip = item.start >= 0
            frames = clip_frames(item.start, item.step, entry.frames, random) if is_clip else choose_frames(sequence, entry.frames, random)
            sample = sequence.load(frames)
            if is_covisible(sample, entry.frames):
                return augment(_fewer_tracks(sample, self.config.max_tracks, random), entry.augmentation, random)
            if is_clip:
                break
        share = entry.frames.min_covisibility
        raise TooFewFrames(f"{sequence.dataset}/{sequence.name}: no frames found that see {share:g} of the first one's surface")

    def _sequence(self, source: int, name: str) -> FrameSequence:
        """The open sequence; the least recently used one is closed when there are too many."""
        opened = self._open[source]
        if name not in opened:
            opened[name] = self.sources[source].dataset.open_sequence(name)
            if len(opened) > self.config.open_sequences:
                opened.popitem(last=False)
        opened.move_to_end(name)
        return opened[name]

    def _cut(self, items: list[tuple[Item, ...]]) -> tuple[tuple[Item, ...], ...]:
        """The sources named by `cut` with no more items than the longest other source has, as 3DPoV cuts CO3D.

        Its code (data_loader.py, MixedDataset) keeps the first items of a listing in no particular order; here it is a random choice.
        """
        lengths = [len(entries) for entries in items]
        kept = list(items)
        for place, source in enumerate(self.sources):
            longest_other = max([length for other, length in enumerate(lengths) if other != place], default=lengths[place])
            if source.name in self.config.cut and lengths[place] > longest_other:
                random = np.random.default_rng((self.config.seed, _CUT, place))
                kept[place] = tuple(items[place][number] for number in sorted(random.permutation(lengths[place])[:longest_other]))
        return tuple(kept)


def _list_items(source: Source, skip_bad: bool) -> tuple[tuple[Item, ...], tuple[Skipped, ...]]:
    """All items of a source, and what it has that gives none. Sequences are opened for `clips` only, whose number depends on their length."""
    if source.frames.mode != "clips":
        return tuple(Item(name) for name in source.dataset.sequence_names), ()
    items: list[Item] = []
    skipped: list[Skipped] = []
    for name in source.dataset.sequence_names:
        try:
            length = len(source.dataset.open_sequence(name))
        except PerceptionError as error:
            if not skip_bad:
                raise
            skipped.append(Skipped(source.name, str(error), is_bad=True))
            continue
        starts = clip_starts(length, source.frames)
        items.extend(Item(name, start, step) for start, step in starts)
        if not starts:
            skipped.append(
                Skipped(source.name, f"{source.name}/{name}: {length} frames are too few for a clip of {source.frames.count}", is_bad=False)
            )
    if not items:
        raise InputError(f"source {source.name}: none of its {len(source.dataset)} sequences has a clip; the last: {skipped[-1].reason}")
    return tuple(items), tuple(skipped)


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(length)


def _fewer_tracks(sample: Sample, max_tracks: int, random: np.random.Generator) -> Sample:
    if max_tracks == 0 or sample.tracks is None or sample.tracks.num_points <= max_tracks:
        return sample
    return replace(sample, tracks=sample.tracks.of_points(np.sort(random.permutation(sample.tracks.num_points)[:max_tracks])))
