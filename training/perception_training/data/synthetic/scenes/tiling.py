"""Images as rows of rays: a frame is cut into equal tiles, and each tile is one row. On a GPU a whole frame is one tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from perception_training.data.synthetic.scenes.intersection import Vector
from perception_training.data.synthetic.scenes.scene import SceneBatch


@dataclass(frozen=True)
class Tiling:
    """Tiles of `tile_height` x `tile_width` that cover `height` x `width`; those at the right and lower edge may reach beyond."""

    height: int
    width: int
    tile_height: int
    tile_width: int

    @property
    def num_down(self) -> int:
        return -(-self.height // self.tile_height)

    @property
    def num_across(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def tiles_per_frame(self) -> int:
        return self.num_down * self.num_across

    @property
    def rays_per_tile(self) -> int:
        return self.tile_height * self.tile_width

    def image(self, rows: Tensor) -> Tensor:
        """(frames * tiles, rays) → (frames, height, width)."""
        split = rows.view(-1, self.num_down, self.num_across, self.tile_height, self.tile_width).transpose(2, 3)
        whole = split.reshape(-1, self.num_down * self.tile_height, self.num_across * self.tile_width)
        return whole[:, : self.height, : self.width]

    def rows(self, image: Tensor) -> Tensor:
        """(frames, height, width) → (frames * tiles, rays); the part of tiles beyond the image is 0."""
        down, across = self.num_down * self.tile_height - self.height, self.num_across * self.tile_width - self.width
        split = pad(image, (0, across, 0, down)).view(-1, self.num_down, self.tile_height, self.num_across, self.tile_width)
        return split.transpose(2, 3).reshape(-1, self.rays_per_tile)

    def frame_of_row(self, num_frames: int, device: torch.device) -> Tensor:
        """(frames * tiles,) int64."""
        return torch.arange(num_frames, device=device).repeat_interleave(self.tiles_per_frame)


@dataclass(frozen=True, eq=False)
class CameraRays:
    """Rays through pixel centres with direction (x, y, 1) in camera axes, so that t is the depth along z. x (rows, w) · y (rows, h)."""

    x: Tensor
    y: Tensor

    @property
    def num_rows(self) -> int:
        return len(self.x)

    @property
    def num_rays(self) -> int:
        return self.x.shape[1] * self.y.shape[1]

    def directions(self, rows: Tensor | slice, unit_from_ray: Tensor) -> Vector:
        """Directions (rows, [n,] rays) in other axes. unit_from_ray (rows, 3, 3), or (rows, n, 3, 3): each row's rays in n systems of axes."""
        x, y = self.x[rows], self.y[rows]
        if unit_from_ray.ndim == 4:
            x, y = x[:, None], y[:, None]
        down = torch.addcmul(unit_from_ray[..., 2:3], unit_from_ray[..., 1:2], y[..., None, :])
        across = unit_from_ray[..., :1] * x[..., None, :]
        first, second, third = ((down[..., axis, :, None] + across[..., axis, None, :]).flatten(-2) for axis in range(3))
        return first, second, third


@dataclass(frozen=True, eq=False)
class RaysTo:
    """Rays from a light to points: t is 1 at the point. offset: point less light, three times (rows, rays), world axes."""

    offset: Vector

    @property
    def num_rows(self) -> int:
        return len(self.offset[0])

    @property
    def num_rays(self) -> int:
        return self.offset[0].shape[1]

    def directions(self, rows: Tensor | slice, unit_from_ray: Tensor) -> Vector:
        """As for CameraRays."""
        x, y, z = (part[rows][:, None] if unit_from_ray.ndim == 4 else part[rows] for part in self.offset)
        axes = [unit_from_ray[..., axis, :, None].unbind(-2) for axis in range(3)]
        first, second, third = (torch.addcmul(along[0] * x, along[1], y).addcmul_(along[2], z) for along in axes)
        return first, second, third


def camera_rays(scene: SceneBatch, tiling: Tiling) -> CameraRays:
    """The rays of all frames of all clips, one row for each tile."""
    fx, fy, cx, cy = scene.intrinsics.flatten(0, 1).unbind(-1)

    def along(count: int, length: int, focal: Tensor, centre: Tensor) -> Tensor:
        pixels = torch.arange(count * length, dtype=torch.float64, device=scene.device)
        return ((pixels - centre[:, None]) / focal[:, None]).float().view(-1, count, length)

    x = along(tiling.num_across, tiling.tile_width, fx, cx)[:, None].expand(-1, tiling.num_down, -1, -1)
    y = along(tiling.num_down, tiling.tile_height, fy, cy)[:, :, None].expand(-1, -1, tiling.num_across, -1)
    return CameraRays(x.reshape(-1, tiling.tile_width), y.reshape(-1, tiling.tile_height))
