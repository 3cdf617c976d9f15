"""Nodes as child processes: a ROS domain of their own, logs in files, and a death that is noticed at once."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perception.core.errors import NodeError
from perception.core.resources import share_dir

NUM_DOMAINS = 101
"""Domains above 101 can collide with the ports that Linux hands out to clients."""
LOG_TAIL_LINES = 15


@contextmanager
def reserved_domain(domain_id: int | None = None) -> Iterator[int]:
    """A ROS domain that no other run on this machine uses, as long as the block lasts; a given `domain_id` is taken as it is."""
    if domain_id is not None:
        yield domain_id
        return
    candidates = random.sample(range(1, NUM_DOMAINS + 1), NUM_DOMAINS)
    for candidate in candidates:
        lock_path = Path(tempfile.gettempdir()) / f"perception-domain-{os.getuid()}-{candidate}.lock"
        with open(lock_path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _discovery_port_is_free(candidate):
                yield candidate
                return
    raise NodeError(f"all ROS domains from 1 to {NUM_DOMAINS} are in use on this machine: end a run or give --domain-id")


def _discovery_port_is_free(domain_id: int) -> bool:
    """No participant outside our lock files holds the domain's first unicast port (DDSI-RTPS 9.6.1: 7400 + 250 domain + 10)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", 7410 + 250 * domain_id))
        except OSError:
            return False
    return True


def ros_environment(domain_id: int) -> dict[str, str]:
    """Variables that keep a run to this machine and give large messages room in shared memory."""
    return {
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": str(share_dir() / "config" / "fastdds" / "shared_memory.xml"),
        # Lines of a node's log appear in the order and at the time they are written, also in a file.
        "RCUTILS_LOGGING_USE_STDOUT": "0",
        "RCUTILS_LOGGING_BUFFERED_STREAM": "0",
        "PYTHONUNBUFFERED": "1",
    }


class NodeProcess:
    """One node run by this interpreter as `python -m module --ros-args ...`; use as a context manager."""

    def __init__(
        self, module: str, log_path: Path, environment: dict[str, str], *, arguments: Sequence[str] = (), params_file: Path | None = None
    ) -> None:
        """`arguments` follow `--ros-args` (such as `-r __ns:=/left`); the log holds what the node prints."""
        self.module, self.log_path = module, Path(log_path)
        extra = [*arguments, *(["--params-file", str(params_file)] if params_file else [])]
        # The same interpreter: the ROS wheels re-execute Python once to find their libraries, and a child of another environment would not.
        command = [sys.executable, "-m", module, *(["--ros-args", *extra] if extra else [])]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._stopped = False
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop the nodes in order
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._process.poll()

    def check(self) -> None:
        """Raise `NodeError` with the tail of the log if the process has ended without being asked to."""
        code = self._process.poll()
        if code is not None and not self._stopped:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended by itself with exit code {code}"
            raise NodeError(f"{self.module} {how}; end of {self.log_path}:\n{self.log_tail()}")

    def log_tail(self, num_lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that the node printed."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-num_lines:]) or "    (nothing was printed)"

    def stop(self, timeout_s: float = 8.0) -> int:
        """Ask to end with SIGINT, then SIGTERM, then kill; `timeout_s` for each of the first two. Returns the exit code."""
        self._stopped = self._stopped or self._process.poll() is None
        for request in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            self._process.send_signal(request)
            try:
                self._process.wait(None if request is signal.SIGKILL else timeout_s)
            except subprocess.TimeoutExpired:
                continue
        return self._process.wait()
