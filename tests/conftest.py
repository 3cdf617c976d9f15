"""For all tests: one thread for each process, because pytest-xdist and the nodes' processes share the cores already."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
