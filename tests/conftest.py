"""For all tests: one thread for each process, because pytest-xdist and the nodes' processes share the cores already; the cache of this machine's
user, with its measurements and engines, stays out."""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PERCEPTION_CACHE" not in os.environ:  # pytest-xdist's workers inherit it
    _CACHE = tempfile.TemporaryDirectory(prefix="perception-tests-", ignore_cleanup_errors=True)
    os.environ["PERCEPTION_CACHE"] = _CACHE.name
