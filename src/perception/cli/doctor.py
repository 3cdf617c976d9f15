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
from typing import Literal

from rich.console import Console
from rich.markup import escape

from perception.core.errors import PerceptionError
from perception.core.resources import share_dir

Verdict = Literal["ok", "note", "missing"]
_MARKS = {"ok": "[green]✓[/green]", "note": "[yellow]·[/yellow]", "missing": "[red]✗[/red]"}
_MIN_SHARED_MEMORY_MIB = 512
"""Three participants of 128 MiB each (config/fastdds/shared_memory.xml) and some room."""


@dataclass(frozen=True)
class Arguments:
    """No options."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `mend`: the command that mends it, or what does not work without it."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""


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
        return Finding("torch", "missing", str(error), "pip install torch==2.13.0")
    return Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def check_processor() -> Finding:
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text().partition("flags")[2].partition("\n")[0].split()) if path.is_file() else set()
    fast = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
    bf16 = "bfloat16 in hardware" if {"avx512_bf16", "amx_bf16"} & flags else "no bfloat16 in hardware: float32 is faster"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("processor", "ok" if fast else "note", f"{platform.machine()}, {cores} cores, {' '.join(fast) or 'no vector flags seen'}; {bf16}")


def check_gpu() -> Finding:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return Finding("GPU", "note", "not known without torch")
    if not torch.cuda.is_available():
        return Finding("GPU", "note", "none that torch can use", "not needed: everything runs on the CPU")
    return Finding("GPU", "ok", f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")


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


def check_onnxruntime() -> Finding:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        return Finding("onnxruntime", "missing", str(error), "pip install onnxruntime")
    return Finding("onnxruntime", "ok", f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}")


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
    check_processor,
    check_gpu,
    check_rclpy,
    *(
        lambda package=package: check_messages(package, "", needed=True)
        for package in ("sensor_msgs", "geometry_msgs", "visualization_msgs", "diagnostic_msgs", "std_srvs", "lifecycle_msgs", "rosgraph_msgs")
    ),
    lambda: check_messages("tf2_msgs", "no TF; poses are still published as messages"),
    lambda: check_messages("vision_msgs", "no Detection3DArray; poses are still published as messages"),
    check_fast_dds_profile,
    check_shared_memory,
    check_onnxruntime,
    check_share,
)
