"""Where a sequence of rounds is heading: Anderson's extrapolation (Anderson, J. ACM 1965) of scenes as vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.geometry import se3
from perception.geometry.alignment import similarity_scale
from perception.geometry.global_alignment.scene import Scene
from perception.geometry.rotation_projection import nearest_rotation

_NUM_REMEMBERED = 6
_DAMPING = 1e-10


class Extrapolation:
    """Remembers the last rounds, each from `start` to `end`, and proposes the end of a round that would change least, if rounds were linear."""

    def __init__(self) -> None:
        self._ends: list[Tensor] = []
        self._changes: list[Tensor] = []

    def propose(self, start: Tensor, end: Tensor) -> Tensor | None:
        """start, end (n,) of a round → proposal (n,); None while there is only this round to go by."""
        self._ends = [*self._ends[1 - _NUM_REMEMBERED :], end]
        self._changes = [*self._changes[1 - _NUM_REMEMBERED :], end - start]
        if len(self._ends) < 2:
            return None
        ends, changes = torch.stack(self._ends).diff(dim=0), torch.stack(self._changes).diff(dim=0)
        normal = changes @ changes.T
        damping = _DAMPING * normal.diagonal().mean() + torch.finfo(normal.dtype).tiny
        normal = normal + damping * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
        share, failed = torch.linalg.solve_ex(normal, changes @ self._changes[-1])
        proposal = end - share @ ends
        return proposal if int(failed) == 0 and bool(torch.isfinite(proposal).all()) else None

    def restart(self) -> None:
        """Forget all rounds but the last."""
        self._ends, self._changes = self._ends[-1:], self._changes[-1:]


def flattened(scene: Scene) -> Tensor:
    """A vector; scales, focal lengths and depths by their logarithms. Principal points are left out."""
    scale = similarity_scale(scene.world_from_pair)
    rotation = scene.world_from_pair[:, :3, :3] / scale[:, None, None]
    parts = (scene.world_from_camera[:, :3], scene.focal_px.log(), scale.log(), rotation, scene.world_from_pair[:, :3, 3], scene.depth.log())
    return torch.cat([part.flatten() for part in parts])


def unflattened(vector: Tensor, like: Scene) -> Scene:
    """The scene of a vector (m,) as `flattened` makes it, with matrices that became no rotations replaced by the nearest ones."""
    num_images, num_pairs = len(like.focal_px), len(like.world_from_pair)
    parts = vector.split([12 * num_images, num_images, num_pairs, 9 * num_pairs, 3 * num_pairs, like.depth.numel()])
    cameras, rotation = parts[0].view(-1, 3, 4), nearest_rotation(parts[3].view(-1, 3, 3))
    return Scene(
        se3.from_rotation_translation(nearest_rotation(cameras[..., :3]), cameras[..., 3]),
        parts[1].exp(),
        like.principal_px,
        parts[5].view_as(like.depth).exp(),
        se3.from_rotation_translation(rotation * parts[2].exp()[:, None, None], parts[4].view(-1, 3)),
    )
