"""Annotations of many sequences in one big file, made readable one sequence at a time.

Sets such as CO3D keep the annotations of a whole category in one compressed file, which takes seconds to parse and a gigabyte to hold. It is parsed
once and written to an SQLite file in the cache, from which workers read the sequence that they need in about a millisecond.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from perception.core.errors import InputError
from perception.models.weights import cache_dir


def indexed_annotations(path: Path, key: str, parse: Callable[[Path], Mapping[str, list[Any]]]) -> list[Any] | None:
    """What the annotation file says of one sequence (None: nothing). The file is parsed only when it has not been, or has changed since.

    parse: all annotations by sequence; its InputError is passed on. Raises InputError that names the file that cannot be read or written.
    """
    index = _index_file(path)
    try:
        if not index.exists():
            _build_once(index, path, parse)
        with closing(sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            row = connection.execute("SELECT content FROM annotations WHERE sequence = ?", (key,)).fetchone()
        return None if row is None else json.loads(zlib.decompress(row[0]))
    except (OSError, sqlite3.Error, zlib.error) as error:
        raise InputError(f"{index}: index of {path} cannot be written or read ({error}): remove it, or set PERCEPTION_CACHE") from error


def _index_file(path: Path) -> Path:
    """Where the index of this state of the file lies."""
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    digest = hashlib.sha256(f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:24]
    return cache_dir() / "annotations" / f"{path.parent.name}-{digest}.sqlite"


def _build_once(index: Path, path: Path, parse: Callable[[Path], Mapping[str, list[Any]]]) -> None:
    """Build the index unless another process did while this one waited for it."""
    index.parent.mkdir(parents=True, exist_ok=True)
    with open(index.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if index.exists():
            return
        partial = index.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(partial)) as connection, connection:
            connection.execute("CREATE TABLE annotations (sequence TEXT PRIMARY KEY, content BLOB)")
            rows = ((key, zlib.compress(json.dumps(items).encode())) for key, items in parse(path).items())
            connection.executemany("INSERT INTO annotations VALUES (?, ?)", rows)
        os.replace(partial, index)
