"""How processes that read data are started, wherever there are any: loading, checking, writing shards."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext

import cv2
import torch


def worker_context(*modules: str) -> ForkServerContext:
    """Workers come from a server process that has imported `modules` once and started no threads.

    A plain fork would copy locks of threads that the copy does not have: OpenCV's pool, Open3D's and CUDA's then wait for ever. The price is that
    scripts need a `__main__` guard, and that what a worker receives must pickle.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *modules])
    return context


def begin_worker(*_: object) -> None:
    """Called in each worker as it starts: workers share the cores out among them, and end with the process that they work for."""
    threading.Thread(target=_end_with_the_owner, daemon=True).start()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _end_with_the_owner() -> None:
    """A process that is killed cannot end its workers: their parent, the server, waits for them, and they would wait for it."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        wait([owner.sentinel])
        os._exit(1)
