"""Point maps of pairs of images of an analytic scene: what a perfect network, or one with errors, would say."""

import math
from types import SimpleNamespace

import torch

from perception.geometry import se3
from perception.geometry.global_alignment import pair_observations


def wavy_scene(num_images, edges, *, size=(24, 32), noise=0.0, seed=0, masks=None):
    """Cameras in a row that look at waves of their own, in scales of the pairs' own. noise: deviation of a pair's linear distortion and, halved, of
    every point. Fields: observations, maps (points1, confidence1, points2, confidence2), world_from_camera, depth, focal_px, edges."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    focal = 1.1 * max(size)
    y, x = torch.meshgrid(torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij")
    poses, depths, own = [], [], []
    for image in range(num_images):
        depth = 2 + 0.5 * torch.sin(x / width * 6 + image) + 0.4 * torch.cos(y / height * 5 + 0.3 * image)
        centre = 0.4 * torch.randn(3, generator=generator, dtype=torch.float64) + torch.tensor([0.4 * image, 0.0, 0.0])
        poses.append(se3.exp(torch.cat([centre, 0.3 * torch.randn(3, generator=generator, dtype=torch.float64)])))
        depths.append(depth)
        own.append(torch.stack([(x - width / 2) / focal * depth, (y - height / 2) / focal * depth, depth], -1))
    maps = ([], [], [], [])
    for i, j in edges:
        scale = math.exp(0.3 * float(torch.randn((), generator=generator)))
        i_from_j = se3.inverse(poses[i]) @ poses[j]
        for side, points in enumerate((own[i], se3.transform_points(i_from_j, own[j].flatten(0, 1)).view(height, width, 3))):
            distorted = torch.eye(3, dtype=torch.float64) + noise * torch.randn(3, 3, generator=generator, dtype=torch.float64)
            white = 0.5 * noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)
            maps[2 * side].append(points / scale @ distorted.T + white)
            maps[2 * side + 1].append(1 + torch.exp(1 - 0.5 * side + 0.5 * torch.randn(height, width, generator=generator)))
    stacked = [torch.stack(part).float() for part in maps]
    observations = pair_observations(edges, *stacked, masks=masks)
    return SimpleNamespace(
        observations=observations,
        maps=stacked,
        world_from_camera=torch.stack(poses),
        depth=torch.stack(depths),
        focal_px=torch.full((num_images,), focal, dtype=torch.float64),
        edges=edges,
    )
