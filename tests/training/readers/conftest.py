"""Readers keep what is slow to parse in the cache; tests have one of their own."""

import pytest


@pytest.fixture(autouse=True)
def cache_of_the_test(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
