"""TrajVG: point maps and poses of a clip, and where points of its first frame go in space, from one network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception.core.errors import InputError
from perception.core.types import Grid
from perception.geometry import se3
from perception.models.parts.attention import no_autocast
from perception.models.parts.blocks import checkpointed
from perception.models.parts.conv_head import ConvHead
from perception.models.pi3.backbone import BackboneFeatures, Pi3Backbone
from perception.models.pi3.heads import CameraHead, HeadDecoder, camera_pose
from perception.models.pi3.network import local_points, to_world
from perception.models.trajvg.config import TrajVGConfig
from perception.models.trajvg.track_features import TrackFeatures
from perception.models.trajvg.tracker import Tracker, TrackEstimate
from perception.ops.sampling import sample_map, stratified_grid

MAX_LOG_DEPTH = 15.0
"""Logarithms of depth are clamped here."""

PIXELS_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 21}
"""Pixels of as many whole frames as go through the heads together."""

_PIXELS = Grid((0.0, 0.0), (1.0, 1.0))
_SLACK_PX = 1.0  # queries may lie that far outside of the outermost pixel centres, whose points then hold


class TrajVGEstimate(NamedTuple):
    """All float32, in one scale of the network's choice.

    local_points (batch, frames, height, width, 3): the points that the pixels show, in axes of their own camera (OpenCV) ·
    world_points: the same in the common world · confidence (batch, frames, height, width): logits; the official use keeps sigmoid(·) > 0.1 ·
    world_from_camera (batch, frames, 4, 4) · tracks: the estimates after each iteration, the last one being the result.
    """

    local_points: Tensor
    world_points: Tensor
    confidence: Tensor
    world_from_camera: Tensor
    tracks: list[TrackEstimate]

    def world_tracks(self) -> list[Tensor]:
        """Points of the tracks (batch, frames, points, 3) in the world after each iteration."""
        with no_autocast(self.world_from_camera.device):
            return [se3.transform_points(self.world_from_camera, estimate.points) for estimate in self.tracks]


class TrajVG(Pi3Backbone):
    """The network. Attribute names are the checkpoint's. Heads and tracker are float32 under autocast too."""

    def __init__(self, config: TrajVGConfig | None = None) -> None:
        config = config or TrajVGConfig()
        super().__init__(config.backbone)
        self.config = config
        num_in, dim = config.backbone.feature_dim, config.head_dim
        self.point_decoder = HeadDecoder(num_in, dim, dim, config.head_num_heads, config.head_depth)
        self.conf_decoder = HeadDecoder(num_in, dim, dim, config.head_num_heads, config.head_depth)
        self.camera_decoder = HeadDecoder(num_in, dim, config.camera_dim, config.head_num_heads, config.head_depth)
        self.point_head = ConvHead(dim, config.upsample_dims, (2, 1))
        self.conf_head = ConvHead(dim, config.upsample_dims, (1,))
        self.camera_head = CameraHead(config.camera_dim)
        self.track_decoder = TrackFeatures(config)
        self.track_head = nn.ModuleDict({"tracker": Tracker(config.tracker)})

    @property
    def channels_at_once(self) -> int:
        """Numbers for each pixel that all frames have in memory at once: the results, and the feature maps as they are and normalised."""
        return super().channels_at_once + 2 * self.config.tracker.feature_dim // self.config.tracker.stride_px**2

    @property
    def tracker(self) -> Tracker:
        """The part that tracks."""
        tracker = self.track_head["tracker"]
        assert isinstance(tracker, Tracker)
        return tracker

    def forward(self, images: Tensor, queries_px: Tensor | None = None, num_iterations: int | None = None) -> TrajVGEstimate:
        """images (batch, frames, 3, height, width), RGB in [0, 1], sides multiples of the patch · queries_px (batch, points, 2): pixels (x, y) of the
        first frame that are followed (default: `query_grid`) · num_iterations: corrections of the tracks (default: as configured).

        One frame is enough. Raises InputError for other shapes and values, for frames too small to track in, and for clips that do not fit into the
        free memory.
        """
        if num_iterations is not None and num_iterations < 1:
            raise InputError(f"TrajVG: num_iterations = {num_iterations}; must be 1 or more")
        rows, cols = self.check_images(images)
        self.tracker.check_size(*self.track_decoder.map_size(rows, cols))
        queries = query_grid(images) if queries_px is None else self._checked_queries(images, queries_px)
        local, confidence, camera, maps = self.untracked(images)
        with no_autocast(images.device):
            pose = camera_pose(camera)
        seen = local if self.config.tracks_move_points else local.detach()
        tracks = self.tracker(maps, seen.movedim(-1, 2), queries, self._points_at(seen[:, 0], queries), num_iterations, self.recomputes)
        return TrajVGEstimate(local, to_world(pose, local), confidence, pose, tracks)

    def untracked(self, images: Tensor) -> tuple[Tensor, ...]:
        """What comes before poses and tracks: local points and confidence as in `forward`, the cameras as twelve numbers (batch, frames, 12), which
        `camera_pose` reads, and the feature maps (batch, frames, dim, rows, cols) that `tracker` searches."""
        features = self.features(images, keep_pairs=set(self.config.feature_pairs))
        return tuple(value.unflatten(0, images.shape[:2]) for value in self._heads(features, *images.shape[-2:]))

    def _heads(self, features: BackboneFeatures, height_px: int, width_px: int) -> tuple[Tensor, ...]:
        """Of all frames, in chunks: local points, confidence, cameras as twelve numbers, feature maps to track in."""
        num_frames, num_tokens, _ = features.tokens.shape
        at_once = max(1, PIXELS_AT_ONCE.get(features.tokens.device.type, PIXELS_AT_ONCE["cuda"]) // (height_px * width_px))
        rotary = self.frame_rotary(features.rows, features.cols, self.config.head_dim // self.config.head_num_heads)
        registers, recomputes, parts = num_tokens - features.rows * features.cols, self.recomputes, []
        # In a graph that is exported the number of frames is free.
        exporting = torch.compiler.is_exporting()
        for chunk in [slice(None)] if exporting else [slice(start, start + at_once) for start in range(0, num_frames, at_once)]:
            pairs = [features.pairs[pair][chunk] for pair in self.config.feature_pairs]
            maps = checkpointed(self.track_decoder, pairs, features.rows, features.cols, enabled=recomputes).float()
            point, conf, camera = (
                decoder(features.tokens[chunk], rotary, recomputes)[:, registers:].float()
                for decoder in (self.point_decoder, self.conf_decoder, self.camera_decoder)
            )
            with no_autocast(maps.device):
                point, conf = (hidden.transpose(1, 2).unflatten(2, (features.rows, features.cols)) for hidden in (point, conf))
                raw = torch.cat(self.point_head(point, height_px, width_px, recomputes), dim=1).permute(0, 2, 3, 1)
                confidence = self.conf_head(conf, height_px, width_px, recomputes)[0][:, 0]
                parts.append((local_points(raw, MAX_LOG_DEPTH), confidence, self.camera_head.numbers(camera), maps))
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _points_at(self, points: Tensor, queries_px: Tensor) -> Tensor:
        """points (batch, height, width, 3) at queries_px (batch, points, 2) → (batch, points, 3); beyond the border its points hold."""
        if self.config.query_sampling == "bilinear":
            return sample_map(points.movedim(-1, 1), queries_px, _PIXELS, normalize=False)
        height, width = points.shape[1:3]
        col, row = (queries_px[..., axis].round().long().clamp(0, size - 1) for axis, size in enumerate((width, height)))
        return points[torch.arange(len(points), device=points.device)[:, None], row, col]

    def _checked_queries(self, images: Tensor, queries_px: Tensor) -> Tensor:
        """queries_px (batch, points, 2) as float32 on the device of the images; InputError where they are none or not in the first frame."""
        if queries_px.ndim != 3 or queries_px.shape[0] != images.shape[0] or queries_px.shape[1] < 1 or queries_px.shape[2] != 2:
            raise InputError(f"TrajVG: queries_px of shape {tuple(queries_px.shape)}; must be ({images.shape[0]}, points, 2) with one point or more")
        height, width = images.shape[-2:]
        low, high = queries_px.detach().amin(dim=(0, 1)).tolist(), queries_px.detach().amax(dim=(0, 1)).tolist()
        if not all(least >= -_SLACK_PX and most <= size - 1 + _SLACK_PX for least, most, size in zip(low, high, (width, height), strict=True)):
            found = f"x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} to {high[1]:g}"
            raise InputError(f"TrajVG: queries_px with {found}; must be pixels (x, y) of the first frame, {width}x{height} px")
        return queries_px.to(images.device, torch.float32)


def query_grid(images: Tensor, stride_px: int = 16) -> Tensor:
    """Pixels (batch, points, 2) as (x, y), every stride_px along both axes from the middle of the first stride on, row by row.

    images (batch, …, height, width)."""
    height, width = images.shape[-2:]
    first = stride_px // 2
    points = stratified_grid(height, width, stride_px, first=(first if first < width else 0, first if first < height else 0))
    return torch.from_numpy(points).to(images.device).expand(images.shape[0], -1, -1)
