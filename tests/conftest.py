"""For all tests: one thread for each process, because pytest-xdist and the nodes' processes share the cores already; the cache of this machine's
user, with its measurements and engines, stays out."""

import os
import subprocess
import tempfile
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PERCEPTION_CACHE" not in os.environ:  # pytest-xdist's workers inherit it
    _CACHE = tempfile.TemporaryDirectory(prefix="perception-tests-", ignore_cleanup_errors=True)
    os.environ["PERCEPTION_CACHE"] = _CACHE.name


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says how a worker of pytest-xdist ended that ended by itself, which xdist does not: below 0 it is the signal."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if error and process is not None:
        try:
            print(f"\n{node.gateway.id}: exit status {process.wait(timeout=10)}")
        except subprocess.TimeoutExpired:
            print(f"\n{node.gateway.id}: still runs")
