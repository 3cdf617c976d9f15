"""Render clips of procedural scenes into shards; a run that was stopped goes on after its last finished shard, without rendering what is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from perception.core.config import to_mapping
from perception.core.errors import ConfigError, InputError
from perception_training.data.frame_coding import CodingConfig
from perception_training.data.shard_writing import ShardSummary, ShardWriter
from perception_training.data.shards import EncodedClip, encode_sample
from perception_training.data.synthetic.scenes.clips import render_clips
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.samples import DATASET, clip_name, clip_samples

SHARD_SIZE_MB = 256.0
_CLIPS_AT_ONCE = {"cpu": 1, "cuda": 16}


def write_scenes(
    out: Path,
    config: ScenesConfig,
    seeds: range,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    shard_size_mb: float = SHARD_SIZE_MB,
) -> ShardSummary:
    """Render the clips of these seeds, which follow each other, and store them without loss under their names.

    progress (clips done, clips in all). Raises InputError when other shards lie in `out`, ConfigError for a GPU that is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': there is no GPU; must be cpu")
    job = {"dataset": DATASET, "seed": seeds.start, "num_clips": len(seeds), "scenes": to_mapping(config)}
    try:
        writer = ShardWriter(out, job, shard_size_mb)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    with writer:
        for done, clip in enumerate(_encoded(config, seeds[writer.num_items :], device), start=writer.num_items + 1):
            writer.add([clip])
            if progress is not None:
                progress(done, len(seeds))
        return writer.finish()


def _encoded(config: ScenesConfig, seeds: range, device: str) -> Iterator[EncodedClip]:
    """The clips in order; while one batch is encoded in threads, the next is rendered."""
    at_once = _CLIPS_AT_ONCE[device]
    waiting: deque[Future[EncodedClip]] = deque()
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(seeds), at_once):
            batch = seeds[first : first + at_once]
            samples = clip_samples(render_clips(config, batch, device))
            while waiting:
                yield waiting.popleft().result()
            waiting += [pool.submit(encode_sample, clip_name(seed), sample, CodingConfig()) for seed, sample in zip(batch, samples, strict=True)]
        while waiting:
            yield waiting.popleft().result()
