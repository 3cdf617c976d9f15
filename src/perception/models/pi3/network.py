"""Pi3 (Wang et al., "π³: Permutation-equivariant visual geometry learning", 2025): point maps and poses of any number of frames in any order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from perception.geometry.point_maps import points_in_world
from perception.models.parts.attention import no_autocast
from perception.models.parts.pixel_head import PixelHead
from perception.models.pi3.backbone import Pi3Backbone, frames_at_once, split_frames
from perception.models.pi3.config import Pi3Config
from perception.models.pi3.heads import CameraHead, HeadDecoder, camera_pose

_POINT_CHANNELS = 3


class Pi3Estimate(NamedTuple):
    """All float32, in one scale of the network's choice.

    local_points (batch, frames, height, width, 3): the points that the pixels show, in axes of their own camera (OpenCV) ·
    world_points: the same in the common world · confidence (batch, frames, height, width): logits; the official use keeps sigmoid(·) > 0.1 ·
    world_from_camera (batch, frames, 4, 4)
    """

    local_points: Tensor
    world_points: Tensor
    confidence: Tensor
    world_from_camera: Tensor


class Pi3(Pi3Backbone):
    """The network. Attribute names are the checkpoint's. Heads are float32 under autocast too."""

    def __init__(self, config: Pi3Config | None = None) -> None:
        config = config or Pi3Config()
        super().__init__(config.backbone)
        self.config = config
        num_in, dim, patch = config.backbone.feature_dim, config.head_dim, config.backbone.patch_px
        self.point_decoder = HeadDecoder(num_in, dim, dim, config.head_num_heads, config.head_depth)
        self.conf_decoder = HeadDecoder(num_in, dim, dim, config.head_num_heads, config.head_depth)
        self.camera_decoder = HeadDecoder(num_in, dim, config.camera_dim, config.head_num_heads, config.head_depth)
        self.point_head = PixelHead(dim, _POINT_CHANNELS, patch)
        self.conf_head = PixelHead(dim, 1, patch)
        self.camera_head = CameraHead(config.camera_dim)

    def forward(self, images: Tensor) -> Pi3Estimate:
        """images (batch, frames, 3, height, width), RGB in [0, 1], sides multiples of the patch; one frame is enough.

        Raises InputError for other shapes and values, and for clips that do not fit into the free memory.
        """
        local, confidence, camera = self.unposed(images)
        with no_autocast(images.device):
            pose = camera_pose(camera)
        return Pi3Estimate(local, to_world(pose, local), confidence, pose)

    def unposed(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Local points and confidence as in `forward`, and the cameras as twelve numbers (batch, frames, 12), which `camera_pose` reads."""
        tokens, rows, cols, _ = self.features(images)
        rotary = self.frame_rotary(rows, cols, self.config.head_dim // self.config.head_num_heads)
        parts = []
        for part in split_frames(tokens, frames_at_once(tokens.device, tokens.shape[1])):
            point, conf, camera = (
                decoder(part, rotary, self.recomputes)[:, self.backbone_config.decoder_registers :].float()
                for decoder in (self.point_decoder, self.conf_decoder, self.camera_decoder)
            )
            with no_autocast(images.device):
                raw = self.point_head(point, rows, cols).permute(0, 2, 3, 1)
                parts.append((local_points(raw), self.conf_head(conf, rows, cols)[:, 0], self.camera_head.numbers(camera)))
        local, confidence, cameras = (torch.cat(values).unflatten(0, images.shape[:2]) for values in zip(*parts, strict=True))
        return local, confidence, cameras


def local_points(raw: Tensor, max_log_depth: float | None = None) -> Tensor:
    """raw (…, 3): x / z, y / z and log z → points (…, 3). max_log_depth: log z is clamped there (TrajVG); Pi3 does not."""
    log_depth = raw[..., 2:]
    if max_log_depth is not None:
        log_depth = log_depth.clamp(max=max_log_depth)
    depth = log_depth.exp()
    return torch.cat([raw[..., :2] * depth, depth], dim=-1)


def to_world(world_from_camera: Tensor, points: Tensor) -> Tensor:
    """world_from_camera (…, 4, 4), points (…, height, width, 3) of each camera → the same points in the world."""
    with no_autocast(points.device):
        return points_in_world(points, world_from_camera)
