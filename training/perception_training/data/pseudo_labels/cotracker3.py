"""CoTracker3 as a tracker of clips: the published predictors' settings around `perception.models.cotracker3`.

Frames are scaled to the size for which the network was trained, a coarse grid of support points is added, and points are followed from their
frame backwards by running the clip in reverse. Clips that are too long for one pass go through in windows that overlap by half, so that memory
does not grow with their length. Thresholds, iterations and support grid: facebookresearch/co-tracker, predictor.py at 82e02e8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import WeightsError
from perception.models.cotracker3 import OFFLINE, ONLINE, CoTracker3, CoTracker3Config, TrackEstimate, WindowedTracking, feature_windows
from perception.models.cotracker3.network import first_estimate
from perception.models.cotracker3.weights import load_cotracker3
from perception.models.extractor import resolve_device
from perception.models.weights import file_sha256
from perception_training.data.pseudo_labels.tracker import Frames, Report, check_clip, finished_tracks, no_report, read_frame
from perception_training.data.sample import Tracks

_SUPPORT_MARGIN = 64
"""The support grid stays this part of the image width away from the border."""
_FRAMES_AT_ONCE = 8
_NOT_IN_PROVENANCE = ("weights", "device")


@dataclass(frozen=True, kw_only=True)
class CoTracker3TrackerConfig(Checked):
    """CoTracker3 and what the published predictors do around it."""

    weights: str = ""
    """Checkpoint: scaled_offline.pth or scaled_online.pth, or the same tensors as .safetensors."""
    num_iterations: Annotated[int, Range(1, 32)] = 6
    """Corrections of each window."""
    support_grid: Annotated[int, Range(0, 64)] = 6
    """Support points per side that are followed along with the queries; 0 for none."""
    min_visibility: Annotated[float, Range(0.0, 1.0)] = 0.0
    """A point is visible above this probability; 0 takes the published one: visibility 0.9 offline, visibility times confidence 0.6 online."""
    backward_pass: bool = True
    """Follow points from their frame backwards in the reversed clip; without, frames before it are known only as far as one pass covers them."""
    max_frames_at_once: Annotated[int, Range(1)] = 120
    """Longer clips go through the offline network in windows."""
    max_points_at_once: Annotated[int, Range(1)] = 2048
    """More points go through in groups, each with its own support grid."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves memory; coordinates and logits stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes the GPU where there is one."""


class _CoTracker3Tracker:
    """What both variants share. `network` is for networks that are not read from a file."""

    Config: ClassVar[type[Checked]] = CoTracker3TrackerConfig
    architecture: ClassVar[CoTracker3Config]
    default_min_visibility: ClassVar[float]

    def __init__(self, config: CoTracker3TrackerConfig, network: CoTracker3 | None = None) -> None:
        self._config = config
        self.weights_sha256 = ""
        if network is None:
            if not config.weights:
                raise WeightsError(
                    f"tracker {type(self).__name__} needs weights: give the file of the published checkpoint "
                    f"({'scaled_online.pth' if self.architecture.pads_windows else 'scaled_offline.pth'})"
                )
            network = load_cotracker3(Path(config.weights), self.architecture)
            self.weights_sha256 = file_sha256(Path(config.weights))
        self._device = resolve_device(config.device)
        self._network = network.eval().to(self._device)
        self._min_visibility = config.min_visibility or self.default_min_visibility
        self.settings: dict[str, Any] = {
            **{name: value for name, value in to_mapping(config).items() if name not in _NOT_IN_PROVENANCE},
            "min_visibility": self._min_visibility,
        }

    def track(self, images: Frames, queries: NDArray, report: Report = no_report) -> Tracks:
        """See `ClipTracker.track`."""
        checked, size = check_clip(images, queries)
        clip = _Clip(images, size, (self._network.config.height_px, self._network.config.width_px), self._device)
        asked = torch.from_numpy(checked).to(self._device)
        asked = torch.cat([asked[:, :1], asked[:, 1:] * clip.network_from_image], dim=1)
        groups = [self._with_support(group, 0) for group in asked.split(self._config.max_points_at_once)]
        autocast = torch.autocast(self._device.type, torch.bfloat16) if self._config.precision == "bfloat16" else nullcontext()
        with torch.inference_mode(), autocast:
            estimates = self._estimate(clip, groups, report)
        num_support = self._config.support_grid**2
        kept = [TrackEstimate(*(value[0, :, : value.shape[2] - num_support] for value in estimate)) for estimate in estimates]
        points, visibility, confidence = (torch.cat(values, dim=1) for values in zip(*kept, strict=True))
        visible = self._visible(visibility, confidence).cpu().numpy() & torch.isfinite(points).all(-1).cpu().numpy()
        return finished_tracks((points / clip.network_from_image).cpu().numpy(), visible, checked)

    def _estimate(self, clip: _Clip, groups: list[Tensor], report: Report) -> list[TrackEstimate]:
        """Estimates of each group over the whole clip, support points last."""
        raise NotImplementedError

    def _visible(self, visibility: Tensor, confidence: Tensor) -> Tensor:
        raise NotImplementedError

    def _with_support(self, queries: Tensor, frame: int) -> Tensor:
        """queries (points, 3) → (1, points + support, 3), support points on a grid in `frame`."""
        config = self._network.config
        margin = config.width_px / _SUPPORT_MARGIN
        x, y = (
            torch.linspace(margin, side - margin, self._config.support_grid, device=queries.device) for side in (config.width_px, config.height_px)
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        return torch.cat([queries, functional.pad(grid, (1, 0), value=float(frame))])[None]

    def _in_windows(self, clip: _Clip, groups: list[Tensor], report: Report) -> list[TrackEstimate]:
        """Forwards in windows from the first frame; then, for what comes before a query, backwards from the last query's frame."""
        num_support, last = self._config.support_grid**2, max(int(group[0, :, 0].max()) for group in groups)
        is_both_ways = self._config.backward_pass and last > 0
        total = len(clip) + (last + 1 if is_both_ways else 0)
        forwards = self._one_way(clip.frames(range(len(clip))), groups, lambda done: report(done, total))
        if is_both_ways:
            turned = [torch.cat([last - group[..., :1], group[..., 1:]], dim=-1) for group in groups]
            for group in turned:
                group[:, group.shape[1] - num_support :, 0] = 0
            backwards = self._one_way(clip.frames(range(last, -1, -1)), turned, lambda done: report(len(clip) + done, total))
            backwards = [TrackEstimate(*(functional.pad(v.flip(1), _frames_after(v, len(clip))) for v in estimate)) for estimate in backwards]
        else:
            backwards = [TrackEstimate(torch.full_like(forward.points_px, torch.nan), *forward[1:]) for forward in forwards]
        return [_joined(*parts) for parts in zip(forwards, backwards, groups, strict=True)]

    def _one_way(self, frames: Iterable[Tensor], groups: list[Tensor], report: Any) -> list[TrackEstimate]:
        tracking = [WindowedTracking(self._network, group, self._config.num_iterations) for group in groups]
        estimates: list[TrackEstimate] = []
        for levels in feature_windows(self._network, frames):
            estimates = [one.step(levels) for one in tracking]
            report(estimates[0].points_px.shape[1])
        return estimates


class CoTracker3Offline(_CoTracker3Tracker):
    """`ClipTracker` that sees a whole clip at once, or windows of 60 frames of longer ones."""

    architecture = OFFLINE
    default_min_visibility = 0.9

    def _visible(self, visibility: Tensor, confidence: Tensor) -> Tensor:
        return visibility.sigmoid() > self._min_visibility

    def _estimate(self, clip: _Clip, groups: list[Tensor], report: Report) -> list[TrackEstimate]:
        if len(clip) > self._config.max_frames_at_once:
            return self._in_windows(clip, groups, report)
        parts = []
        for first in range(0, len(clip), _FRAMES_AT_ONCE):
            chunk = range(first, min(first + _FRAMES_AT_ONCE, len(clip)))
            parts.append(self._network.encode(torch.stack(list(clip.frames(chunk)), dim=1)))
            report(chunk.stop, 2 * len(clip))
        levels = [torch.cat(level, dim=1) for level in zip(*parts, strict=True)]
        del parts
        estimates = []
        for number, group in enumerate(groups, 1):
            estimate = self._at_once(levels, group)
            if self._config.backward_pass and bool((group[..., 0] > 0).any()):
                turned = torch.cat([len(clip) - 1 - group[..., :1], group[..., 1:]], dim=-1)
                backwards = self._at_once([level.flip(1) for level in levels], turned)
                estimate = _joined(estimate, TrackEstimate(*(value.flip(1) for value in backwards)), group)
            estimates.append(estimate)
            report(len(clip) + len(clip) * number // len(groups), 2 * len(clip))
        return estimates

    def _at_once(self, levels: list[Tensor], queries: Tensor) -> TrackEstimate:
        patches = self._network.query_patches(levels, queries[..., 0].long(), queries[..., 1:])
        start = first_estimate(queries, levels[0].shape[1])
        return self._network.refine(levels, patches, start, self._config.num_iterations)[-1]


class CoTracker3Online(_CoTracker3Tracker):
    """`ClipTracker` by the network for streams: windows of 16 frames, 8 apart."""

    architecture = ONLINE
    default_min_visibility = 0.6

    def _visible(self, visibility: Tensor, confidence: Tensor) -> Tensor:
        return visibility.sigmoid() * confidence.sigmoid() > self._min_visibility

    def _estimate(self, clip: _Clip, groups: list[Tensor], report: Report) -> list[TrackEstimate]:
        return self._in_windows(clip, groups, report)


class _Clip:
    """Frames of a clip at the network's size, one by one.

    network_from_image (2,): factors from pixels of the clip to those of the network; corner pixels meet corner pixels.
    """

    def __init__(self, images: Frames, size: tuple[int, int], network_size: tuple[int, int], device: torch.device) -> None:
        self._images, self._size, self._network_size, self._device = images, size, network_size, device
        sides = [(network - 1) / max(image - 1, 1) for network, image in zip(network_size, size, strict=True)]
        self.network_from_image = torch.tensor(sides[::-1], device=device)

    def __len__(self) -> int:
        return len(self._images)

    def frames(self, order: Iterable[int]) -> Iterator[Tensor]:
        """(1, 3, height, width) float32 in [0, 255], in this order."""
        for frame in order:
            image = torch.from_numpy(np.ascontiguousarray(read_frame(self._images, frame, self._size))).to(self._device)
            pixels = image.permute(2, 0, 1)[None].float()
            yield functional.interpolate(pixels, self._network_size, mode="bilinear", align_corners=True)


def _joined(forwards: TrackEstimate, backwards: TrackEstimate, queries: Tensor) -> TrackEstimate:
    """The backward estimates in frames before each query, the forward ones from its frame on."""
    frames = torch.arange(forwards.points_px.shape[1], device=queries.device)[None, :, None]
    is_before = frames < queries[:, None, :, 0]
    points = torch.where(is_before[..., None], backwards.points_px, forwards.points_px)
    logits = (torch.where(is_before, *pair) for pair in zip(backwards[1:], forwards[1:], strict=True))
    return TrackEstimate(points, *logits)


def _frames_after(values: Tensor, num_frames: int) -> list[int]:
    """Padding that appends frames to (batch, time, …) up to `num_frames`."""
    return [0, 0] * (values.ndim - 2) + [0, num_frames - values.shape[1]]
