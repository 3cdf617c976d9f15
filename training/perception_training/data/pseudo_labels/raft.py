"""RAFT (Teed and Deng, ECCV 2020) through torchvision: dense flow between neighbouring frames, chained, with a forward–backward check.

torchvision is not among the project's requirements. The chaining is tested with other flow functions; the call of torchvision follows its
documentation (torchvision.models.optical_flow) and was not run here, since it cannot be installed on the machine where this was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import MissingDependencyError, WeightsError
from perception.models.checkpoint_files import read_tensors
from perception.models.extractor import resolve_device
from perception.models.weights import file_sha256, load_into
from perception_training.data.pseudo_labels.chaining import chain
from perception_training.data.pseudo_labels.tracker import Frames, Image, Report, no_report
from perception_training.data.sample import Tracks

Flow = Callable[[Image, Image], NDArray[np.float32]]
"""Two images → (height, width, 2): how far each pixel of the first one moves, in pixels as (x, y)."""

_MULTIPLE_PX = 8
_MIN_SIDE_PX = 128


@dataclass(frozen=True, kw_only=True)
class RaftConfig(Checked):
    """Chained optical flow; the check's two numbers are those of Sundaram et al. (ECCV 2010)."""

    model: Literal["large", "small"] = "large"
    """Which of torchvision's two networks."""
    weights: str = ""
    """Checkpoint of torchvision for this network, such as raft_large_C_T_SKHT_V2-ff5fadd5.pth."""
    num_updates: Annotated[int, Range(1, 64)] = 12
    """Iterations of the network."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes the GPU where there is one."""
    max_return_share: Annotated[float, Range(0.0)] = 0.01
    """Squared distance to where the way back leads, as a share of the squared lengths of both ways, …"""
    max_return_px2: Annotated[float, Range(0.0, None, "px²")] = 0.5
    """… and the part of it that is allowed on top."""


class FlowTracker:
    """Follows points along dense flow: `ClipTracker.track` for any flow function."""

    def __init__(self, flow: Flow, config: RaftConfig) -> None:
        self._flow, self._config = flow, config

    def track(self, images: Frames, queries: NDArray, report: Report = no_report) -> Tracks:
        """See `ClipTracker.track`."""
        return chain(images, queries, (self, self), report)

    def start(self, image: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]) -> None:
        """Nothing is remembered of a query."""

    def follow(
        self, before: Image, after: Image, points: NDArray[np.int64], points_px: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `chaining.Follower`."""
        forwards = _sampled(self._flow(before, after), points_px)
        found_px = points_px + forwards
        backwards = _sampled(self._flow(after, before), found_px)
        error = np.square(forwards + backwards).sum(1)
        lengths = np.square(forwards).sum(1) + np.square(backwards).sum(1)
        return found_px, error <= self._config.max_return_share * lengths + self._config.max_return_px2


class Raft(FlowTracker):
    """`ClipTracker` by torchvision's RAFT."""

    Config: ClassVar[type[Checked]] = RaftConfig

    def __init__(self, config: RaftConfig) -> None:
        super().__init__(_raft_flow(config), config)
        self.settings: dict[str, Any] = {name: value for name, value in to_mapping(config).items() if name not in ("weights", "device")}
        self.weights_sha256 = file_sha256(Path(config.weights))


def _sampled(flow: NDArray[np.float32], points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flow (height, width, 2) at points (n, 2), bilinear; beyond the border it is the border's."""
    rows = [points_px[:, None, axis].astype(np.float32) for axis in range(2)]
    return np.asarray(cv2.remap(flow, rows[0], rows[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0], np.float32)


def _raft_flow(config: RaftConfig) -> Flow:
    try:
        from torchvision.models import optical_flow
    except ImportError as error:
        raise MissingDependencyError("tracker raft needs torchvision: pip install torchvision") from error
    if not config.weights:
        raise WeightsError("tracker raft needs weights: give torchvision's checkpoint, such as raft_large_C_T_SKHT_V2-ff5fadd5.pth")
    network: nn.Module = getattr(optical_flow, f"raft_{config.model}")(weights=None)
    load_into(network, read_tensors(Path(config.weights)), config.weights)
    device = resolve_device(config.device)
    network = network.eval().to(device)

    def flow(first: Image, second: Image) -> NDArray[np.float32]:
        height, width = first.shape[:2]
        pair = [_padded(torch.from_numpy(np.ascontiguousarray(image)).to(device)) for image in (first, second)]
        with torch.inference_mode():
            last = network(*pair, num_flow_updates=config.num_updates)[-1]
        return np.asarray(last[0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy())

    return flow


def _padded(image: torch.Tensor) -> torch.Tensor:
    """(height, width, 3) uint8 → (1, 3, …) in [-1, 1], its border repeated up to sides that the network can take."""
    x = image.permute(2, 0, 1)[None].float() / 127.5 - 1
    bottom, right = (max(_MIN_SIDE_PX, -(-side // _MULTIPLE_PX) * _MULTIPLE_PX) - side for side in x.shape[-2:])
    return functional.pad(x, (0, right, 0, bottom), mode="replicate")
