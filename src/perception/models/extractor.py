"""What every dense extractor is: an image in, a map of unit descriptors and the grid on which they lie out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.devices import multiplies_bfloat16
from perception.core.errors import ConfigError, InputError
from perception.core.types import Grid

Precision = Literal["float32", "bfloat16", "float16"]
BackendName = Literal["auto", "torch", "torch_compiled", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig(Checked):
    """Which network or filter makes the descriptors, with which weights, and how it is run."""

    extractor: str = "nano"
    """Name in the registry, such as nano (ships with the package), dense_sift, alike_n or dinov2_small; an unknown name lists the known ones."""
    weights: str = ""
    """Weights file, local model folder, hub name or a name from config/weights.yaml; empty takes the extractor's own default."""
    adapter: str = ""
    """File of an adapter of a network, from MEF training (`perception-train mef_code`) or of an object (`perception onboard --adapt`);
    empty: none."""
    backend: BackendName = "auto"
    """What runs the network. auto takes the fastest that `perception bench` measured on this machine with descriptors equal to float32. Where nothing
    was measured it begins with torch at once; on a CPU, when images (of a ViT those of one size) have taken so long that it pays (ten seconds or
    more), another process makes the graph that is expected to be fastest, which takes over when its descriptors equal float32 on an image from the
    camera, and is kept for the next start. Name a backend for results that are the same bit by bit. tensorrt and tensorrt_rtx run what
    `perception export` built. dense_sift is no network and takes auto or torch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto takes a CUDA device when there is one."""
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = "auto"
    """Number type of a network; auto is bfloat16 where the hardware multiplies it (CUDA, AMX, AVX-512-BF16) and the backend has it, and float32
    elsewhere. int8 takes a graph that `perception bench MODEL --calibrate BAG` made, float8 an engine of `perception export`."""
    stride_px: Annotated[int, Range(0, 64, "px")] = 0
    """Distance between two descriptors; 0 takes the extractor's own (4 for nano, dense_sift and ALIKE, the patch for a ViT)."""
    sift_size_px: Annotated[float, Range(2.0, 128.0, "px")] = 4.0
    """Keypoint size of dense_sift as OpenCV counts it: the descriptor looks at 7.5 times as many pixels. Small ones are not spoilt by what lies
    around an object and give the better poses; 16 finds more nearest neighbours where no geometry helps, as in tracking."""
    layer: Annotated[int, Range(-64, 64)] = -1
    """Which block of a ViT gives the tokens; negative counts from the end."""
    final_norm: bool = True
    """Whether a ViT's last layer norm is applied to the tokens."""
    fit: Literal["pad", "resize"] = "pad"
    """How an image that is no whole number of patches is made to fit: padded at the right and bottom, or resized."""


class Extractor(Protocol):
    """Turns one image into dense descriptors; built by the registry, holds its weights, keeps nothing of past images."""

    @property
    def name(self) -> str:
        """Extractor and all that changes its descriptors: only maps of equal names can be matched."""

    @property
    def dim(self) -> int:
        """Length of a descriptor."""

    def extract(self, image: NDArray[np.uint8]) -> tuple[torch.Tensor, Grid]:
        """image (height, width, 3) RGB → descriptors (dim, rows, cols), L2-normalised (all zero where the image is flat), and their grid."""


def resolve_device(device: str) -> torch.device:
    """The torch device of a config's `device`; asking for a CUDA device where there is none is an error."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ConfigError("device = 'cuda': torch finds no CUDA device on this machine; allowed here: auto, cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a config's `precision` on a device."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def check_image(image: NDArray[np.uint8], place: str) -> None:
    """Raise InputError unless `image` is (height, width, 3) uint8 with positive size."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"{place}: image has shape {image.shape} and type {image.dtype}: must be (height, width, 3) uint8")
