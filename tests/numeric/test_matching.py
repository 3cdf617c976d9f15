"""Descriptor matching against a plain twin that holds the whole similarity matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.closeness import assert_close
from tests.support.scenes import unit_descriptors

from perception.core.errors import InputError
from perception.ops import matching
from perception.ops.matching import MatcherConfig, match_descriptors


def plain_twin(query: np.ndarray, reference: np.ndarray, config: MatcherConfig) -> list[tuple[int, int]]:
    score = query.astype(np.float64) @ reference.astype(np.float64).T
    pairs = []
    for i, row in enumerate(score):
        j = int(row.argmax())
        second = np.partition(row, -2)[-2] if len(row) > 1 else -np.inf
        passes_ratio = config.max_ratio == 1 or (1 - row[j]) < config.max_ratio**2 * (1 - second)
        if row[j] >= config.min_score and passes_ratio and (not config.mutual or score[:, j].argmax() == i):
            pairs.append((i, j))
    return pairs


@pytest.mark.parametrize("sizes", [(1, 1), (5, 3), (33, 64), (300, 1000), (100, 31)])
@pytest.mark.parametrize("settings", [{}, {"mutual": False}, {"max_ratio": 0.9}, {"min_score": 0.5, "mutual": False}])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_matches_equal_the_plain_twin(sizes, settings, precision, monkeypatch):
    monkeypatch.setattr(matching, "_TILE_QUERIES", 96)
    monkeypatch.setattr(matching, "_TILE_REFERENCES", 160)
    query, reference = unit_descriptors(sizes[0], 16, 0), unit_descriptors(sizes[1], 16, 1)
    config = MatcherConfig(precision=precision, **settings)
    found = match_descriptors(torch.from_numpy(query), reference, config)
    assert list(zip(found.query_index, found.reference_index, strict=True)) == plain_twin(query, reference, config)
    assert_close(found.score, np.sum(query[found.query_index] * reference[found.reference_index], axis=1))


def test_equal_candidates_give_the_lowest_index():
    reference = unit_descriptors(50, 24, 2)
    copies = np.concatenate([unit_descriptors(9000, 24, 3) * 0.1, np.repeat(reference, 7, axis=0), np.tile(reference, (4, 1))])
    found = match_descriptors(reference, copies, MatcherConfig(mutual=False, precision="float32"))
    assert found.reference_index.tolist() == list(range(9000, 9350, 7))
    twice = match_descriptors(np.tile(reference, (2, 1)), reference, MatcherConfig(precision="float32"))
    assert twice.query_index.tolist() == list(range(50))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_half_precision_is_matched_as_stored(dtype):
    query, reference = unit_descriptors(80, 32, 4), torch.from_numpy(unit_descriptors(500, 32, 5)).to(dtype)
    found = match_descriptors(query, reference, MatcherConfig(min_score=-1.0))
    assert list(zip(found.query_index, found.reference_index, strict=True)) == plain_twin(
        query, reference.float().numpy(), MatcherConfig(min_score=-1.0)
    )


def test_a_memory_mapped_database_is_read_in_place(tmp_path):
    stored = np.lib.format.open_memmap(tmp_path / "database.npy", mode="w+", dtype=np.float16, shape=(3000, 32))
    stored[:] = unit_descriptors(3000, 32, 6)
    stored.flush()
    mapped = np.load(tmp_path / "database.npy", mmap_mode="c")
    found = match_descriptors(np.asarray(mapped[100:200], np.float32), mapped, MatcherConfig())
    assert found.reference_index.tolist() == list(range(100, 200))


def test_empty_and_unfit_input():
    assert len(match_descriptors(np.empty((0, 8), np.float32), unit_descriptors(5, 8, 0), MatcherConfig())) == 0
    assert len(match_descriptors(unit_descriptors(5, 8, 0), np.empty((0, 8), np.float32), MatcherConfig())) == 0
    with pytest.raises(InputError, match="8 dimensions, reference descriptors 9"):
        match_descriptors(np.ones((1, 8), np.float32), np.ones((1, 9), np.float32), MatcherConfig())
    with pytest.raises(InputError, match="int64"):
        match_descriptors(np.ones((1, 8), np.int64), np.ones((1, 8), np.float32), MatcherConfig())
