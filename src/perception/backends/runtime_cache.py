"""Kernels that TensorRT-RTX compiled for this GPU when an engine first ran, kept beside the engine, so that the next start compiles nothing.

The library itself refuses a cache of another GPU, driver or version. What it cannot tell is a file that was cut off or changed: the file begins with
the SHA-256 of the rest, and one that does not fit is ignored.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 32


def runtime_cache_path(folder: Path, version: str, gpu: str) -> Path:
    """Where the kernels of an engine folder lie, for each version of the library and GPU."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "_", f"{version}-{gpu}").strip("_")
    return folder / f"runtime-{readable}.cache"


def load_runtime_cache(cache: Any, path: Path) -> int:
    """Fill the library's cache from a file; the number of bytes that were taken, 0 where there is none that fits."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0
    digest, kernels = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(kernels).digest() != digest:
        _LOG.warning("%s: damaged; kernels are compiled again", path)
        return 0
    return len(kernels) if cache.deserialize(kernels) else 0


def save_runtime_cache(cache: Any, path: Path, num_loaded: int) -> int:
    """Write the library's cache where it holds more than the `num_loaded` bytes it began with; the number of bytes it holds.

    A folder that cannot be written costs the time of compiling at the next start, and nothing else.
    """
    kernels = bytes(cache.serialize())
    if len(kernels) <= num_loaded:
        return num_loaded
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(hashlib.sha256(kernels).digest() + kernels)
        os.replace(partial, path)
    except OSError as error:
        _LOG.info("%s: compiled kernels are not kept (%s)", path, error.strerror)
    return len(kernels)
