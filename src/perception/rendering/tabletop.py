"""The demo's scene: a table with a printed box, a can and clutter, made from a seed, and a camera on an arc around it.

World: origin in the middle of the table top, z upwards, metres.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import so3
from perception.io.meshes import Mesh
from perception.rendering import primitives
from perception.rendering import procedural_textures as textures
from perception.rendering.raycast import Lighting, MeshScene, RenderedView, render
from perception.rendering.viewpoints import look_at

TARGETS = ("box", "can")
"""The objects that the demo looks for; the others are clutter."""

_TABLE_SIZE = (1.6, 1.1, 0.04)
_ROOM_SIZE = (4.4, 4.4, 2.6)
_ROOM_CENTER = (0.0, 0.0, 0.55)
_LIGHT_DIRECTION = (0.35, -0.45, 1.0)
_LIGHTING = Lighting(ambient=0.62, diffuse=0.62, direction=_LIGHT_DIRECTION, in_camera_axes=False)
_SIDE_PX = 384


class PlacedMesh(NamedTuple):
    """A mesh and where it stands: world_from_object (4, 4)."""

    mesh: Mesh
    world_from_object: NDArray[np.float64]


class TabletopScene:
    """A deterministic scene: equal arguments give equal pixels on one machine.

    camera: of width x height pixels · objects: name → PlacedMesh, the TARGETS first · names: what the instance ids of a rendered view index.
    supersampling: see `raycast.render`.
    """

    def __init__(self, seed: int = 0, width: int = 640, height: int = 480, supersampling: int = 2) -> None:
        if width < 16 or height < 16:
            raise InputError(f"scene of {width}x{height} pixels: must be at least 16x16")
        rng = np.random.default_rng(seed)
        focal_px = 600 * width / 640
        self.camera = Camera(width, height, focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)
        self.objects = _objects(rng)
        table = PlacedMesh(primitives.box(_TABLE_SIZE, _table_sides(rng), "table"), _placed(0, 0, -_TABLE_SIZE[2] / 2, 0))
        tones = [textures.random_color(rng, 150, 225) for _ in range(4)]
        walls = [textures.wall(rng, 768, tone) for tone in tones] + [np.full((768, 768, 3), 235, np.uint8), textures.tiles(rng, 768)]
        surroundings = {"table": table, "room": PlacedMesh(primitives.room(_ROOM_SIZE, walls), _placed(*_ROOM_CENTER, 0))}
        _bake_shadows(table.mesh, MeshScene(self.objects), rng)
        self._scene = MeshScene({**self.objects, **surroundings})
        self._supersampling = supersampling
        self.names = self._scene.names

    def render(self, camera_from_world: NDArray) -> RenderedView:
        """What the camera sees; `object_points` are in world axes, `instance_ids` index `names`."""
        return render(self._scene, self.camera, camera_from_world, lighting=_LIGHTING, supersampling=self._supersampling)

    def trajectory(self, num_frames: int) -> NDArray[np.float64]:
        """(num_frames, 4, 4) camera_from_world along an arc of 120 degrees around the table, rising and coming closer on the way."""
        if num_frames < 1:
            raise InputError(f"{num_frames} frames: must be at least 1")
        share = np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])
        azimuth = np.radians(-90 + 120 * (share - 0.5))
        elevation = np.radians(28 + 14 * np.sin(np.pi * share))
        distance_m = 0.78 - 0.16 * np.sin(np.pi * share)
        target = np.array([0.0, 0.0, 0.07])
        outwards = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=1)
        return np.stack([look_at(target + d * direction, target) for d, direction in zip(distance_m, outwards, strict=True)])


def _placed(x: float, y: float, z: float, yaw_deg: float) -> NDArray[np.float64]:
    world_from_object = np.eye(4)
    world_from_object[:3, :3] = so3.exp(np.array([0.0, 0.0, np.radians(yaw_deg)]))
    world_from_object[:3, 3] = x, y, z
    return world_from_object


def _printed_box(rng: np.random.Generator, size: tuple[float, float, float], base: textures.Color, name: str) -> Mesh:
    width, depth, height = size
    extents = {"front": (height, width), "back": (height, width), "left": (height, depth), "right": (height, depth)}
    sides = []
    for side in primitives.BOX_SIDES:
        tall, wide = extents.get(side, (depth, width))
        picture = textures.printed(rng, max(64, int(_SIDE_PX * tall / max(size))), max(64, int(_SIDE_PX * wide / max(size))), base)
        sides.append(np.asarray(cv2.resize(picture, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_LINEAR), np.uint8))
    return primitives.box(size, sides, name)


def _printed_can(rng: np.random.Generator, radius: float, height: float, base: textures.Color, name: str) -> Mesh:
    width_px = 768
    label = textures.printed(rng, max(64, int(width_px * height / (2 * np.pi * radius))), width_px, base, num_shapes=45)
    lid = textures.blend(textures.noise(rng, width_px, width_px, 5), (140, 140, 145), (205, 205, 210))
    for ring in (0.25, 0.36, 0.45):
        cv2.circle(lid, (width_px // 2, width_px // 2), int(ring * width_px), (95, 95, 100), 6, cv2.LINE_AA)
    return primitives.cylinder(radius, height, label, lid, name)


def _objects(rng: np.random.Generator) -> dict[str, PlacedMesh]:
    """Targets in the middle, clutter around them; positions jittered by a few centimetres, so that nothing touches."""

    def stand(mesh: Mesh, x: float, y: float, yaw_deg: float) -> PlacedMesh:
        jitter = rng.uniform(-0.012, 0.012, 2)
        return PlacedMesh(mesh, _placed(x + jitter[0], y + jitter[1], -float(mesh.bounds[0, 2]), yaw_deg + rng.uniform(-12, 12)))

    book = _printed_box(rng, (0.21, 0.15, 0.03), textures.random_color(rng, 40, 160), "book")
    carton = _printed_box(rng, (0.07, 0.07, 0.13), textures.random_color(rng, 90, 240), "carton")
    tin = _printed_can(rng, 0.042, 0.055, textures.random_color(rng, 60, 220), "tin")
    ball_texture = textures.blend(textures.noise(rng, 128, 256, 6), textures.random_color(rng), textures.random_color(rng))
    return {
        "box": stand(_printed_box(rng, (0.16, 0.06, 0.21), (208, 150, 46), "box"), -0.07, 0.02, 12),
        "can": stand(_printed_can(rng, 0.034, 0.115, (176, 44, 40), "can"), 0.105, -0.03, 30),
        "book": stand(book, 0.30, 0.12, -28),
        "carton": stand(carton, -0.25, -0.05, 35),
        "tin": stand(tin, 0.215, -0.12, 0),
        "ball": stand(primitives.sphere(0.035, ball_texture, "ball"), -0.17, -0.19, 0),
    }


def _table_sides(rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    top = textures.wood(rng, 1024, 1024)
    edge = np.ascontiguousarray(np.broadcast_to(top[512:513], (1024, 1024, 3)))
    return [edge, edge, edge, edge, top, edge]


def _bake_shadows(table: Mesh, objects: MeshScene, rng: np.random.Generator, size: int = 256, num_samples: int = 48) -> None:
    """Darken the table's texture where objects stand between it and a broad light: static soft shadows that cost nothing at run time."""
    x = (np.arange(size) + 0.5) / size - 0.5
    grid_x, grid_y = np.meshgrid(x * _TABLE_SIZE[0], -x * _TABLE_SIZE[1])  # texture rows run from +y to -y
    origins = np.stack([grid_x, grid_y, np.full_like(grid_x, 1e-3)], axis=-1)
    hidden = np.zeros((size, size), np.float32)
    for spread in rng.normal(0, 0.33, (num_samples, 2)):
        direction = np.array([_LIGHT_DIRECTION[0] + spread[0], _LIGHT_DIRECTION[1] + spread[1], _LIGHT_DIRECTION[2]])
        hidden += objects.occluded(origins, direction) / num_samples
    assert table.texture is not None
    tile = table.texture.shape[0] // 2
    row, column = divmod(primitives.BOX_SIDES.index("top"), 3)
    area = table.texture[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
    brightness = 1 - 0.6 * cv2.resize(cv2.GaussianBlur(hidden, (0, 0), 1.2), (tile, tile), interpolation=cv2.INTER_LINEAR)
    area[:] = (area * brightness[..., None]).astype(np.uint8)
