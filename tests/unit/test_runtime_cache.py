"""Compiled kernels are kept beside an engine; a damaged file is as good as none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from perception.backends.runtime_cache import load_runtime_cache, runtime_cache_path, save_runtime_cache


class LibraryCache:
    """As that of TensorRT-RTX: refuses what was made elsewhere."""

    def __init__(self, kernels: bytes = b"", fits: bool = True) -> None:
        self.kernels, self.fits = kernels, fits

    def serialize(self) -> bytes:
        return self.kernels

    def deserialize(self, blob: bytes) -> bool:
        self.kernels = blob if self.fits else self.kernels
        return self.fits


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return runtime_cache_path(tmp_path, "1.7.1", "NVIDIA GeForce RTX 4090, SM89")


def test_kernels_come_back(path: Path) -> None:
    assert path.name == "runtime-1.7.1_NVIDIA_GeForce_RTX_4090_SM89.cache"
    assert load_runtime_cache(LibraryCache(), path) == 0
    assert save_runtime_cache(LibraryCache(b"kernels"), path, 0) == 7
    found = LibraryCache()
    assert load_runtime_cache(found, path) == 7
    assert found.kernels == b"kernels"


def test_nothing_is_written_when_nothing_was_compiled(path: Path) -> None:
    assert save_runtime_cache(LibraryCache(b"kernels"), path, 7) == 7
    assert not path.exists()


def test_what_was_changed_or_made_elsewhere_is_not_taken(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_runtime_cache(LibraryCache(b"kernels"), path, 0)
    assert load_runtime_cache(LibraryCache(fits=False), path) == 0
    path.write_bytes(path.read_bytes()[:-1])
    found = LibraryCache()
    assert load_runtime_cache(found, path) == 0
    assert not found.kernels
    assert "damaged; kernels are compiled again" in caplog.text


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert save_runtime_cache(LibraryCache(b"kernels"), tmp_path / "absent" / "x.cache", 0) == 7
    assert "compiled kernels are not kept" in caplog.text
