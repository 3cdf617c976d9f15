"""The checks of `perception doctor` on what runs networks: processor, GPU and driver, runtimes, TensorRT, compiler, cache and measurements.

Nothing here is needed, as torch on the CPU runs everything; each finding says what is to be gained and by which command.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from perception.backends.machine import library_versions, num_cores, processor
from perception.cli.findings import Finding
from perception.core.errors import PerceptionError
from perception.models.background_build import expected_way
from perception.models.extractor import resolve_device
from perception.models.measurements import fastest, measurements_path, read_measurements
from perception.models.weights import cache_dir

TORCH = "pip install torch==2.13.0"
EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxslim")
EXPORT = f"pip install {' '.join(EXPORT_PACKAGES)}"
OPENVINO = "pip install openvino"
ONNXRUNTIME = "pip install onnxruntime"
COMPILER = "apt-get install g++"
DRIVER = "apt-get install nvidia-open"
JETPACK = "apt-get install nvidia-jetpack"
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_TEGRA = Path("/etc/nv_tegra_release")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY_CLASS = "0x10de", "0x03"


def check_processor() -> Finding:
    name, flags = processor()
    fast = {"avx512_bf16", "amx_bf16", "bf16"} & set(flags)
    bf16 = "bfloat16 in hardware" if fast else "no bfloat16 in hardware: float32 is faster"
    found = f"{name}, {num_cores()} cores, {' '.join(flags) or 'no vector flags seen'}; {bf16}"
    return Finding("processor", "ok" if flags else "note", found)


def check_gpu() -> Finding:
    """What torch can use; and why it cannot where there is a card."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return Finding("GPU", "note", "not known without torch", TORCH)
    if torch.cuda.is_available():
        from perception.backends.engine_folder import gpu_identity

        memory_gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("GPU", "ok", f"{gpu_identity()}, {memory_gib:.0f} GiB, CUDA {torch.version.cuda}")
    if driver_version() and torch.version.cuda is None:
        return Finding(
            "GPU", "note", f"a driver, but torch {torch.__version__} is built without CUDA", f"pip install --force-reinstall {TORCH.split()[-1]}"
        )
    if driver_version():
        return Finding("GPU", "note", f"a driver, but torch finds no device (CUDA {torch.version.cuda})", "nvidia-smi   # in Docker: --gpus all")
    if has_nvidia_card():
        return Finding("GPU", "note", "an NVIDIA card without a driver", DRIVER)
    return Finding("GPU", "note", "none that torch can use", "not needed: everything runs on the CPU")


def check_driver() -> Finding:
    version = driver_version()
    if version:
        return Finding("NVIDIA driver", "ok", version)
    if not has_nvidia_card():
        return Finding("NVIDIA driver", "note", "none, and no NVIDIA card")
    return Finding("NVIDIA driver", "note", "none, but an NVIDIA card", f"{DRIVER}   # TensorRT and CUDA need it")


def check_tensorrt() -> Finding:
    """TensorRT, or TensorRT-RTX on cards that it takes."""
    from perception.backends.tensorrt_library import INSTALL, RTX_TARGETS

    versions = library_versions()
    found = [f"{name} {versions[name]}" for name in ("tensorrt", "tensorrt_rtx") if name in versions]
    if not found and _is_importable("tensorrt"):
        found = ["tensorrt of the system"]
    target = _compute_target()
    if found:
        useless = "; here it only builds engines: running them needs an NVIDIA GPU" if not target else ""
        return Finding("TensorRT", "ok", ", ".join(found) + useless)
    if _TEGRA.is_file():
        return Finding("TensorRT", "note", "not installed on this Jetson", JETPACK)
    if not target:
        return Finding(
            "TensorRT", "note", "not installed, and no GPU that it could use", f"to build engines for RTX cards here: {INSTALL['tensorrt_rtx']}"
        )
    return Finding(
        "TensorRT", "note", f"not installed; {target} runs networks faster with it", INSTALL["tensorrt_rtx" if target in RTX_TARGETS else "tensorrt"]
    )


def check_openvino() -> Finding:
    version = library_versions().get("openvino")
    if version:
        return Finding("OpenVINO", "ok", f"{version}: bfloat16 and int8 graphs on the CPU")
    return Finding("OpenVINO", "note", "not installed: one fast way less on the CPU (perception bench measures them)", OPENVINO)


def check_onnxruntime() -> Finding:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        return Finding("onnxruntime", "missing", str(error), ONNXRUNTIME)
    return Finding("onnxruntime", "ok", f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}")


def check_export() -> Finding:
    """What `perception export` and every backend but torch write graphs with; onnxslim only makes them smaller."""
    absent = [name for name in EXPORT_PACKAGES if not _is_importable(name)]
    if not absent:
        return Finding("export", "ok", ", ".join(EXPORT_PACKAGES))
    without = "graphs are not simplified" if absent == ["onnxslim"] else "networks run on torch only"
    return Finding("export", "note", f"{', '.join(absent)} not installed: {without}", f"pip install {' '.join(absent)}")


def check_compiler() -> Finding:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler:
        return Finding("C++ compiler", "ok", compiler)
    return Finding("C++ compiler", "note", "none: no backend torch_compiled on the CPU", COMPILER)


def check_cache() -> Finding:
    """Whether graphs, engines and measurements can be written."""
    folder = cache_dir()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return Finding("cache", "ok", str(folder))
    mend = 'export PERCEPTION_CACHE="$HOME/perception-cache"   # any folder of yours'
    return Finding("cache", "missing", f"{folder} cannot be written: no downloads, graphs or engines", mend)


def check_measurements() -> Finding:
    """What `backend: auto` will take on this machine."""
    try:
        rows = read_measurements()
    except PerceptionError as error:
        return Finding("backend: auto", "note", str(error), f"rm {measurements_path()}")
    subjects = dict.fromkeys((row.model, row.stride_px, row.device, row.height, row.width) for row in rows if row.batch == 1)
    choices = []
    for model, stride, device, height, width in subjects:
        best = fastest(rows, model, stride, device, (height, width))
        if best is not None:
            choices.append(f"{model} {width}x{height} on the {device}: {best.backend} {best.precision}, {best.frames_per_s:.3g} frames/s")
    if choices:
        return Finding("backend: auto", "ok", "; ".join(choices))
    way = expected_way(resolve_device("auto"))
    then = f"; {way.backend} {way.precision} takes over when its graph is made in the background" if way is not None else ""
    found = f"nothing measured with these library versions: torch runs every network{then}"
    return Finding("backend: auto", "note", found, "perception bench MODEL --weights FILE")


def _is_importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def driver_version() -> str:
    """Of the NVIDIA kernel driver; empty without one."""
    if not _DRIVER_VERSION.is_file():
        return _TEGRA.read_text().splitlines()[0] if _TEGRA.is_file() else ""
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER_VERSION.read_text())
    return found[1] if found else "version unknown"


def has_nvidia_card() -> bool:
    """Whether an NVIDIA display adapter is on the PCI bus."""
    return any(_read(card / "vendor") == _NVIDIA and _read(card / "class").startswith(_DISPLAY_CLASS) for card in _PCI.glob("*"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _compute_target() -> str:
    """Such as "SM89"; empty without a GPU that torch can use."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return ""
    return "SM{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else ""


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_processor,
    check_gpu,
    check_driver,
    check_tensorrt,
    check_openvino,
    check_onnxruntime,
    check_export,
    check_compiler,
    check_cache,
    check_measurements,
)
