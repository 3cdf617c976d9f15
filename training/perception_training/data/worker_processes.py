"""How processes that read data are started, wherever there are any: loading, checking, writing shards."""

from __future__ import annotations

import multiprocessing
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


def one_thread_each(*_: object) -> None:
    """Called in each worker as it starts: workers share the cores out among them."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
