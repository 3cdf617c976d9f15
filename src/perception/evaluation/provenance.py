"""Where results come from: the header of every file of predictions, so that stale results are recognised."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from perception.core.errors import InputError

_LIBRARIES = ("perception", "torch", "numpy", "opencv-python-headless", "onnxruntime", "poselib", "rosbags", "ros-rclpy", "transformers")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Header:
    """First line of a file of predictions or truth.

    config: settings of what made it, plain nested mapping · source: what it was made from, see `source_identity` · commit of the code ·
    created: UTC, ISO 8601 · machine and versions: for the report, not compared.
    """

    config: Mapping[str, Any]
    source: str
    commit: str = "unknown"
    created: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, config: Mapping[str, Any], source: str) -> Header:
        """A header for results made now, on this machine, by this checkout."""
        plain = json.loads(json.dumps(config))  # what a reader gets back: tuples as lists, keys as strings
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(plain, source, current_commit(), created, machine_facts(), library_versions())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over config and source: equal for results that may be compared."""
        canonical = json.dumps({"config": self.config, "source": self.source}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def differences(self, other: Header) -> list[str]:
        """What makes the fingerprints differ, one sentence each; empty when they are equal."""
        mine, theirs = dict(_flat(self.config)), dict(_flat(other.config))
        found = [
            f"config {key} is {_shown(mine, key)}, expected {_shown(theirs, key)}"
            for key in sorted(mine.keys() | theirs.keys())
            if (key in mine, mine.get(key)) != (key in theirs, theirs.get(key))
        ]
        if self.source != other.source:
            found.append(f"source is {self.source!r}, expected {other.source!r}")
        return found

    def to_mapping(self) -> dict[str, Any]:
        """Plain dict, ready for JSON."""
        return dataclasses.asdict(self)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"


def source_identity(path: str | Path) -> str:
    """Name, size and SHA-256 of a file, or of all files of a folder (rosbag2). Two copies of one bag have one identity."""
    path = Path(path)
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    if not files or not all(item.is_file() for item in files):
        raise InputError(f"{path}: must be a file or a folder with files in it")
    digest = hashlib.sha256()
    for item in files:
        digest.update(str(item.relative_to(path) if path.is_dir() else "").encode() + b"\0")
        with item.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return f"{path.name} ({sum(item.stat().st_size for item in files)} bytes, sha256 {digest.hexdigest()[:16]})"


def current_commit() -> str:
    """Commit of the checkout this package runs from, with `-dirty` for uncommitted changes; `unknown` when it is installed without one."""
    folder = Path(__file__).resolve().parent
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], capture_output=True, text=True, timeout=10
        )
        tracked = subprocess.run(["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return run.stdout.strip() if run.returncode == tracked.returncode == 0 and run.stdout.strip() else "unknown"


def machine_facts() -> dict[str, str]:
    """Processor, cores this process may use, memory, system and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor_name(),
        "cores": str(cores),
        "memory": f"{memory_gib:.0f} GiB",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that shape the results, as installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
