"""The two libraries behind backends `tensorrt` (10.x, 11.x) and `tensorrt_rtx`: which is there, what differs between them, and what they log."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch

from perception.core.errors import ConfigError, MissingDependencyError

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
MODULES: dict[str, tuple[str, ...]] = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
INSTALL: dict[str, str] = {
    "tensorrt": "pip install tensorrt (on a machine with an NVIDIA driver), or take a Jetson's own JetPack packages",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs",
}
_OLDEST_MAJOR = {"tensorrt": 10, "tensorrt_rtx": 1}
RTX_TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""GPUs that TensorRT-RTX 1.x builds for; H100/H200 (SM90), Orin (SM87) and Thor (SM110) take TensorRT."""
_NUM_KEPT_MESSAGES = 8


@dataclass(frozen=True)
class TensorRtLibrary:
    """One of the two, imported. `trt` is its Python module."""

    name: LibraryName
    trt: ModuleType

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    @cached_property
    def logger(self) -> Any:
        """One logger for the whole process, as the library demands; it keeps the last warnings and errors of each thread."""
        return _logger_of(self.trt)

    def messages(self) -> str:
        """What the library said on this thread since the last call, errors only; empty where nothing."""
        kept: list[str] = getattr(_said, "messages", [])
        _said.messages = []
        return "; ".join(kept)

    def torch_dtype(self, dtype: Any) -> torch.dtype:
        """The torch type of a tensor of an engine."""
        kinds = self.trt.DataType
        pairs = {kinds.FLOAT: torch.float32, kinds.HALF: torch.float16, kinds.BF16: torch.bfloat16, kinds.UINT8: torch.uint8}
        pairs |= {kinds.INT8: torch.int8, kinds.INT32: torch.int32, kinds.INT64: torch.int64, kinds.BOOL: torch.bool}
        return pairs[dtype]


def load_library(name: str) -> TensorRtLibrary:
    """Import a library by the name of its backend. Raises MissingDependencyError where it is absent, ConfigError where it is too old."""
    reasons = []
    for module_name in MODULES[name]:
        try:
            module = import_module(module_name)
        except (ImportError, OSError, RuntimeError) as error:
            # Its loader raises all three, for a missing package, a missing .so and a missing driver.
            reasons.append(f"{module_name}: {str(error).splitlines()[0][:150] if str(error) else type(error).__name__}")
            continue
        library = TensorRtLibrary(name, module)  # type: ignore[arg-type]
        if int(library.version.split(".")[0]) < _OLDEST_MAJOR[name]:
            raise ConfigError(
                f"backend = {name!r}: version {library.version} is too old, {_OLDEST_MAJOR[name]}.x or later is needed; {INSTALL[name]}"
            )
        return library
    raise MissingDependencyError(f"backend = {name!r}: the library cannot be imported ({'; '.join(reasons)}); {INSTALL[name]}")


def compute_target() -> str:
    """Compute capability of the GPU in use, such as "SM89"; empty without one."""
    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


_said = threading.local()
_loggers: dict[str, Any] = {}


def _logger_of(trt: ModuleType) -> Any:
    if trt.__name__ not in _loggers:

        class KeepingLogger(trt.ILogger):  # type: ignore[name-defined, misc]
            """Prints nothing: errors come back as exceptions of ours that quote them."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    kept = getattr(_said, "messages", [])
                    _said.messages = [*kept, message.strip()][-_NUM_KEPT_MESSAGES:]

        _loggers[trt.__name__] = KeepingLogger()
    return _loggers[trt.__name__]
