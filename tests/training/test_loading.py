"""Batches from worker processes: the same for any number of them, resumable, dealt out to ranks."""

import hashlib
import logging
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.support.miniatures.numbered import MiniatureDataset, MiniatureOptions

from perception.core.errors import ConfigError, InputError
from perception_training.data.augmentation import AugmentationConfig, ColourConfig
from perception_training.data.frame_sampling import FrameSamplingConfig
from perception_training.data.loading import LoaderConfig, make_loader
from perception_training.data.mixture import Mixture, MixtureConfig, Source

ROOT = Path(__file__).parents[2]
COLOUR = ColourConfig(jitter_probability=0.5, noise_probability=0.5)
AUGMENTATION = AugmentationConfig(height=24, width=32, crop="random", crop_min_share=0.5, flip_probability=0.5, colour=COLOUR)


def mixture(bad=(), skip_bad=False, seed=0, order="weighted"):
    frames = FrameSamplingConfig(num_frames=2, reversal_probability=0.5)
    sources = [
        Source(name, MiniatureDataset(MiniatureOptions(lengths=(5,) * 4, bad=bad, has_depth=False), name), frames, AUGMENTATION)
        for name in ("a", "b")
    ]
    return Mixture(sources, MixtureConfig(seed=seed, order=order, skip_bad=skip_bad))


def digest(batch):
    """A fingerprint of all that a batch holds."""
    found = hashlib.sha256(repr((batch.datasets, batch.sequences, batch.frame_names)).encode())
    for name, tensor in sorted(batch.tensors().items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def digests(num_workers, count, start_step=0, **rank):
    config = LoaderConfig(batch_size=3, num_workers=num_workers)
    return [digest(batch) for batch in islice(make_loader(mixture(), config, start_step, **rank), count)]


@pytest.fixture(scope="module")
def truth():
    return digests(0, 8)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_any_number_of_workers_gives_the_same_batches(num_workers, truth):
    np.random.default_rng()  # the state of other generators has no say
    np.random.seed(num_workers)  # noqa: NPY002
    assert digests(num_workers, 8) == truth
    assert len(set(truth)) == 8


def test_a_loader_that_is_left_continues_where_it_was(truth):
    loader = make_loader(mixture(), LoaderConfig(batch_size=3, num_workers=2))
    first = [digest(batch) for batch in islice(loader, 3)]
    assert loader.step == 3
    rest = [digest(batch) for batch in islice(loader, 2)]
    assert first + rest == truth[:5]


def _write_digests(path):
    with open(path, "w") as file:
        for batch in make_loader(mixture(), LoaderConfig(batch_size=3, num_workers=2)):
            file.write(digest(batch) + "\n")
            file.flush()
            time.sleep(0.02)


def test_a_killed_run_with_two_workers_continues_with_identical_samples(tmp_path, truth):
    path = tmp_path / "digests.txt"
    program = f"from tests.training.test_loading import _write_digests\nif __name__ == '__main__':\n    _write_digests({str(path)!r})\n"
    (tmp_path / "run.py").write_text(program)
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    for _ in range(1000):
        time.sleep(0.02)
        if path.exists() and path.read_text().count("\n") >= 3:
            break
    others = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    _, left = psutil.wait_procs(others, timeout=20)
    for process in left:
        process.kill()
    assert len(others) >= 3, "a server and two workers"
    assert not left, "what worked for a killed run ends by itself"
    seen = [line for line in path.read_text().splitlines() if len(line) == 64]
    assert 3 <= len(seen) < 8
    assert seen == truth[: len(seen)]
    assert digests(2, 8 - len(seen), start_step=len(seen)) == truth[len(seen) :]


def test_ranks_share_the_stream_out_without_overlap():
    whole = [name for batch in islice(make_loader(mixture(order="union"), LoaderConfig(batch_size=4, num_workers=0)), 2) for name in names(batch)]
    dealt = [
        [
            name
            for batch in islice(make_loader(mixture(order="union"), LoaderConfig(batch_size=2, num_workers=0), 0, rank, 2), 2)
            for name in names(batch)
        ]
        for rank in range(2)
    ]
    assert dealt[0] == whole[0::2]
    assert dealt[1] == whole[1::2]
    assert len(set(whole)) == 8  # two sources of four sequences: one epoch


def names(batch):
    return list(zip(batch.datasets, batch.sequences, strict=True))


def test_an_error_in_a_worker_arrives_with_its_own_words():
    loader = make_loader(mixture(bad=tuple(f"s{s}/{f}" for s in range(4) for f in range(5))), LoaderConfig(num_workers=1))
    with pytest.raises(InputError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith("image /miniature/s")
    assert str(caught.value).endswith("truncated, or not an image")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_samples_are_counted_over_all_workers_and_logged_once(num_workers, caplog):
    source = mixture(bad=("s1/0", "s1/2", "s1/4"), skip_bad=True)
    expected = [entry for number in range(32) for entry in source.draw(number).skipped]
    loader = make_loader(source, LoaderConfig(batch_size=4, num_workers=num_workers))
    with caplog.at_level(logging.WARNING):
        batches = [digest(batch) for batch in islice(loader, 8)]
    assert len(set(batches)) == 8
    assert loader.num_bad == len(expected) > 5
    assert loader.num_too_short == 0
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(set(messages)) == len(set(expected)) < loader.num_bad


def test_a_loader_ends_after_its_last_step():
    loader = make_loader(mixture(), LoaderConfig(batch_size=1, num_workers=0, num_steps=4), start_step=1)
    assert len(list(loader)) == 3
    assert list(loader) == []


def test_a_rank_outside_the_world_is_an_error():
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        make_loader(mixture(), rank=2, world_size=2)
