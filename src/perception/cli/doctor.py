"""What this machine has for perception, what is missing and how to mend it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from perception.cli import doctor_engines
from perception.cli.findings import Finding, Verdict
from perception.core.errors import PerceptionError
from perception.core.resources import share_dir

_MARKS: dict[Verdict, str] = {"ok": "[green]✓[/green]", "note": "[yellow]·[/yellow]", "missing": "[red]✗[/red]"}
_MIN_SHARED_MEMORY_MIB = 512
"""Three participants of 128 MiB each (config/fastdds/shared_memory.xml) and some room."""


@dataclass(frozen=True)
class Arguments:
    """No options."""


def run(_arguments: Arguments) -> int:
    """Print what was found, with what mends it below; 0 when nothing that is needed is missing, else 1."""
    findings = [check() for check in CHECKS]
    console = Console(soft_wrap=True)
    for finding in findings:
        console.print(f"{_MARKS[finding.verdict]} {finding.what:<18} {escape(finding.found)}", highlight=False)
        if finding.mend:
            console.print(f"{'':21}→ {escape(finding.mend)}", highlight=False)
    return int(any(finding.verdict == "missing" for finding in findings))


def check_python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    return Finding(
        "Python", "ok" if sys.version_info >= (3, 10) else "missing", found, "" if sys.version_info >= (3, 10) else "use Python 3.10 or later"
    )


def check_torch() -> Finding:
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return Finding("torch", "missing", str(error), doctor_engines.TORCH)
    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_ros() -> Finding:
    """Which ROS distribution this shell has sourced."""
    distribution = os.environ.get("ROS_DISTRO")
    if distribution:
        return Finding("ROS", "ok", f"{distribution}, ROS_DOMAIN_ID {os.environ.get('ROS_DOMAIN_ID', '0')}")
    installed = sorted(path.name for path in Path("/opt/ros").glob("*") if (path / "setup.bash").is_file())
    if installed:
        return Finding("ROS", "note", f"{', '.join(installed)} installed, not sourced in this shell", f"source /opt/ros/{installed[-1]}/setup.bash")
    return Finding("ROS", "note", "no distribution; rclpy from PyPI runs the nodes, `ros2` and RViz are not there")


def check_rclpy() -> Finding:
    mend = "pip install 'perception[ros-wheels]', or source /opt/ros/<distribution>/setup.bash"
    try:
        rclpy = importlib.import_module("rclpy")
        middleware = rclpy.get_rmw_implementation_identifier()
    except ImportError as error:
        return Finding("rclpy", "missing", str(error), mend)
    return Finding("rclpy", "ok", f"{_version('rclpy', 'ros-rclpy')}, middleware {middleware}")


def check_messages(package: str, without: str, needed: bool = False) -> Finding:
    """Whether a package of message types can be imported; `without` says what is not there then."""
    try:
        importlib.import_module(package)
    except ImportError:
        deb = f"apt install ros-$ROS_DISTRO-{package.replace('_', '-')} (in a ROS installation; not on PyPI)"
        mend = f"pip install ros-{package.replace('_', '-')}" if needed else f"{without}; {deb}"
        return Finding(package, "missing" if needed else "note", "not importable", mend)
    return Finding(package, "ok", _version(package, f"ros-{package.replace('_', '-')}"))


def check_fast_dds_profile() -> Finding:
    given = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if given:
        exists = Path(given).is_file()
        return Finding(
            "Fast DDS profile", "ok" if exists else "missing", given, "" if exists else "FASTDDS_DEFAULT_PROFILES_FILE names no file: unset it"
        )
    try:
        profile = share_dir() / "config" / "fastdds" / "shared_memory.xml"
    except PerceptionError as error:
        return Finding("Fast DDS profile", "missing", str(error), "pip install . in the checkout")
    if not profile.is_file():
        return Finding("Fast DDS profile", "missing", f"{profile}: no such file", "install the package again")
    return Finding(
        "Fast DDS profile",
        "ok",
        "not set in this shell (launch files and `perception demo` set it)",
        f"export FASTDDS_DEFAULT_PROFILES_FILE={profile}",
    )


def check_shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("/dev/shm", "note", "no such folder", "images then go over UDP: slower, and large ones may get lost")
    free_mib = shutil.disk_usage(folder).free >> 20
    segments = [path for path in folder.glob("fastdds_*") if not path.name.endswith("_el")]
    enough = free_mib >= _MIN_SHARED_MEMORY_MIB
    mend = "" if enough else "no ROS process running: rm /dev/shm/fastdds_* /dev/shm/fastrtps_* (left by killed nodes); in Docker: --shm-size=1g"
    return Finding("/dev/shm", "ok" if enough else "missing", f"{free_mib} MiB free, {len(segments)} segments of Fast DDS", mend)


def check_share() -> Finding:
    try:
        return Finding("share folder", "ok", str(share_dir()))
    except PerceptionError as error:
        return Finding("share folder", "missing", str(error), "pip install . in the checkout, or source the workspace's install/setup.bash")


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "version unknown"


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_torch,
    *doctor_engines.CHECKS,
    check_ros,
    check_rclpy,
    *(
        lambda package=package: check_messages(package, "", needed=True)
        for package in ("sensor_msgs", "geometry_msgs", "visualization_msgs", "diagnostic_msgs", "std_srvs", "lifecycle_msgs", "rosgraph_msgs")
    ),
    lambda: check_messages("tf2_msgs", "no TF; poses are still published as messages"),
    lambda: check_messages("vision_msgs", "no Detection3DArray; poses are still published as messages"),
    check_fast_dds_profile,
    check_shared_memory,
    check_share,
)
