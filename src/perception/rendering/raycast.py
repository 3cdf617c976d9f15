"""Views of textured meshes by ray casting on the CPU (Open3D): colour, depth, normals and the surface point under each pixel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError, MissingDependencyError
from perception.core.types import Camera
from perception.geometry.camera import unproject
from perception.io.meshes import Mesh

BACKGROUND = -1
"""Instance id of pixels that show no mesh."""

_GREY = 160
_SAMPLES_PER_ROW = 4096
_CONTRAST = 14


@cache
def open3d() -> ModuleType:
    """The open3d module. Its wheels need libusb-1.0, which slim systems lack; the wheel libusb-package brings it."""
    try:
        import libusb_package

        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
        import open3d as module
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"open3d cannot be loaded ({error}): install open3d-cpu and libusb-package, and on slim systems libgl1, libegl1, libx11-6 and libgomp1"
        ) from error
    return module


@dataclass(frozen=True)
class Lighting:
    """Lambert shading: colour = albedo * (ambient + diffuse * max(0, cosine)).

    direction points towards the light, in the camera's axes (a head light, the default) or in the scene's.
    """

    ambient: float = 0.45
    diffuse: float = 0.6
    direction: tuple[float, float, float] = (-0.3, -0.5, -1.0)
    in_camera_axes: bool = True


@dataclass(frozen=True, eq=False)
class RenderedView:
    """One rendered view.

    image (height, width, 3) uint8 RGB · depth_m (height, width) float32 along z, 0 on the background · normals (height, width, 3) float32 unit
    vectors in camera axes, towards the camera · mask (height, width) bool, where a mesh is seen · object_points (height, width, 3) float32 in the
    frame of the mesh or scene · instance_ids (height, width) int32, index into the scene's names, -1 on the background · camera_from_object (4, 4).
    Normals and points are 0 on the background.
    """

    image: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    normals: NDArray[np.float32]
    mask: NDArray[np.bool_]
    object_points: NDArray[np.float32]
    instance_ids: NDArray[np.int32]
    camera: Camera
    camera_from_object: NDArray[np.float64]


@dataclass(frozen=True)
class _Hits:
    """Where rays meet the scene, for the rays that do: index of the ray, depth along z, face, barycentric coordinates, normal towards the camera."""

    ray: NDArray[np.int64]
    depth_m: NDArray[np.float32]
    face: NDArray[np.int64]
    barycentric: NDArray[np.float32]
    normals_scene: NDArray[np.float32]


class MeshScene:
    """Meshes placed in one frame, ready to be rendered any number of times.

    objects: name → (mesh, scene_from_object (4, 4)). Instance ids follow the order of the names.
    """

    def __init__(self, objects: Mapping[str, tuple[Mesh, NDArray]]) -> None:
        if not objects:
            raise InputError("a scene needs at least one mesh")
        self.names = tuple(objects)
        self.meshes = tuple(mesh for mesh, _ in objects.values())
        vertices = [mesh.vertices @ np.asarray(pose[:3, :3], np.float32).T + np.asarray(pose[:3, 3], np.float32) for mesh, pose in objects.values()]
        offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in self.meshes[:-1])])
        faces = np.concatenate([mesh.faces + offset for mesh, offset in zip(self.meshes, offsets, strict=True)])
        self._first_face = np.cumsum([0, *(len(mesh.faces) for mesh in self.meshes[:-1])])
        self._corner_values = tuple(_corner_values(mesh) for mesh in self.meshes)
        self._face_instance = np.repeat(np.arange(len(self.meshes), dtype=np.int32), [len(mesh.faces) for mesh in self.meshes])
        module = open3d()
        self._tensor = module.core.Tensor
        self._scene = module.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            self._tensor(np.ascontiguousarray(np.concatenate(vertices), dtype=np.float32)),
            self._tensor(np.ascontiguousarray(faces, dtype=np.uint32)),
        )

    def occluded(self, origins: NDArray, directions: NDArray, max_distance: float = np.inf) -> NDArray[np.bool_]:
        """Whether something lies on the ray from `origins` (..., 3) along `directions` (..., 3), nearer than `max_distance` direction lengths."""
        rays = np.concatenate([origins, np.broadcast_to(directions, origins.shape)], axis=-1).astype(np.float32)
        return self._scene.test_occlusions(self._tensor(rays), tnear=1e-4, tfar=float(max_distance)).numpy()

    def cast(self, directions_camera: NDArray[np.float32], scene_from_camera: NDArray) -> _Hits:
        """Cast rays (num, 3) with z = 1 in camera axes, so that the hit distance is the depth."""
        directions = _rotated(directions_camera, scene_from_camera[:3, :3])
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = scene_from_camera[:3, 3], directions
        answer = self._scene.cast_rays(self._tensor(rays))
        depth_m = answer["t_hit"].numpy()
        ray = np.flatnonzero(np.isfinite(depth_m))
        normals = answer["primitive_normals"].numpy()[ray]
        backwards = np.einsum("ij,ij->i", normals, directions[ray]) > 0
        normals[backwards] *= -1
        return _Hits(ray, depth_m[ray], answer["primitive_ids"].numpy()[ray].astype(np.int64), answer["primitive_uvs"].numpy()[ray], normals)

    def instance_of(self, hits: _Hits) -> NDArray[np.int32]:
        """(num_hits,) index into `names`."""
        return self._face_instance[hits.face]

    def albedo(self, hits: _Hits) -> NDArray[np.float32]:
        """(num_hits, 3) surface colour in [0, 255]."""
        colors = np.full((len(hits.ray), 3), _GREY, np.float32)
        instance = self.instance_of(hits)
        for index, mesh in enumerate(self.meshes):
            chosen = np.flatnonzero(instance == index)
            corner_values = self._corner_values[index]
            if not len(chosen) or corner_values is None:
                continue
            corners = corner_values[hits.face[chosen] - self._first_face[index]]
            u, v = hits.barycentric[chosen, 0, None], hits.barycentric[chosen, 1, None]
            at_hits = (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]
            colors[chosen] = at_hits if mesh.texture is None or mesh.uv is None else sample_texture(mesh.texture, at_hits)
        return colors


def _corner_values(mesh: Mesh) -> NDArray[np.float32] | None:
    """(num_faces, 3, 2) texture coordinates or (num_faces, 3, 3) colours of each face's corners; None for a mesh without colour."""
    values = mesh.uv if mesh.texture is not None and mesh.uv is not None else mesh.vertex_colors
    return None if values is None else values[mesh.faces].astype(np.float32)


def sample_texture(texture: NDArray[np.uint8], uv: NDArray) -> NDArray[np.float32]:
    """Bilinear colours (num, 3) at texture coordinates (num, 2) with the origin bottom left; coordinates outside [0, 1] repeat the texture."""
    height, width = texture.shape[:2]
    uv = np.where((uv < 0) | (uv > 1), uv - np.floor(uv), uv)
    num_rows = -(-len(uv) // _SAMPLES_PER_ROW)  # cv2.remap takes no image with more than 32767 rows
    padded = np.zeros((2, num_rows * _SAMPLES_PER_ROW), np.float32)
    padded[0, : len(uv)] = uv[:, 0] * width - 0.5
    padded[1, : len(uv)] = (1 - uv[:, 1]) * height - 0.5
    x, y = padded.reshape(2, num_rows, _SAMPLES_PER_ROW)
    return cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).reshape(-1, 3)[: len(uv)].astype(np.float32)


def _rotated(vectors: NDArray[np.float32], rotation: NDArray) -> NDArray[np.float32]:
    """Vectors (num, 3) turned by a matrix (3, 3): for many short rows OpenCV is several times faster than a matrix product."""
    return np.asarray(cv2.transform(vectors[:, None], rotation), np.float32).reshape(-1, 3) if len(vectors) else vectors


@lru_cache(maxsize=8)
def _ray_directions(camera: Camera, supersampling: int) -> NDArray[np.float32]:
    """(height * width, s * s, 3) directions with z = 1 through the middles of s x s parts of every pixel."""
    inside = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    parts = np.stack(np.meshgrid(inside, inside), axis=-1).reshape(-1, 2)
    centres = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1).reshape(-1, 1, 2)
    pixels = centres + parts
    return np.asarray(unproject(pixels, np.ones(pixels.shape[:-1]), camera), np.float32)


def render(
    scene: Mesh | MeshScene,
    camera: Camera,
    camera_from_object: NDArray,
    *,
    lighting: Lighting | None = None,
    background: tuple[int, int, int] | NDArray[np.uint8] = (255, 255, 255),
    supersampling: int = 1,
) -> RenderedView:
    """Render a mesh or a scene.

    background: one RGB colour or an image of the camera's size · supersampling: where neighbouring pixels differ, colours are averaged over this
    number squared of rays in each pixel; depth, normals and points always belong to the ray through the pixel's centre.
    """
    if supersampling < 1:
        raise InputError(f"supersampling {supersampling}: must be at least 1")
    scene = MeshScene({scene.name or "object": (scene, np.eye(4))}) if isinstance(scene, Mesh) else scene
    lighting = lighting or Lighting()
    camera_from_object = np.asarray(camera_from_object, np.float64)
    scene_from_camera = np.linalg.inv(camera_from_object)
    size, num = (camera.height, camera.width), camera.height * camera.width
    directions = _ray_directions(camera, 1)[:, 0]
    hits = scene.cast(directions, scene_from_camera)
    depth_m, normals, points = np.zeros(num, np.float32), np.zeros((num, 3), np.float32), np.zeros((num, 3), np.float32)
    instance_ids = np.full(num, BACKGROUND, np.int32)
    depth_m[hits.ray], instance_ids[hits.ray] = hits.depth_m, scene.instance_of(hits)
    normals[hits.ray] = _rotated(hits.normals_scene, camera_from_object[:3, :3])
    points_camera = directions[hits.ray] * hits.depth_m[:, None]
    points[hits.ray] = _rotated(points_camera, scene_from_camera[:3, :3]) + scene_from_camera[:3, 3].astype(np.float32)
    backdrop = _background_image(background, size)
    image = backdrop.copy()
    _paint(image.reshape(-1, 3), scene, hits, lighting, scene_from_camera)
    if supersampling > 1:
        pixels = np.flatnonzero(_has_contrast(image))
        fine = np.repeat(backdrop.reshape(-1, 3)[pixels], supersampling**2, axis=0)
        fine_hits = scene.cast(_ray_directions(camera, supersampling)[pixels].reshape(-1, 3), scene_from_camera)
        _paint(fine, scene, fine_hits, lighting, scene_from_camera)
        image.reshape(-1, 3)[pixels] = fine.reshape(len(pixels), supersampling**2, 3).mean(axis=1).round().astype(np.uint8)
    return RenderedView(
        image=image,
        depth_m=depth_m.reshape(size),
        normals=normals.reshape(*size, 3),
        mask=instance_ids.reshape(size) != BACKGROUND,
        object_points=points.reshape(*size, 3),
        instance_ids=instance_ids.reshape(size),
        camera=camera,
        camera_from_object=camera_from_object,
    )


def _background_image(background: tuple[int, int, int] | NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = np.asarray(background, np.uint8)
    if pixels.shape not in ((3,), (*size, 3)):
        raise InputError(f"background has shape {pixels.shape}: must be one RGB colour or an image of shape {(*size, 3)}")
    return np.ascontiguousarray(np.broadcast_to(pixels, (*size, 3)).copy())


def _has_contrast(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(height, width) where a pixel's 3x3 neighbourhood spans more than _CONTRAST in a channel: only there more rays change the picture."""
    return cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(axis=-1) > _CONTRAST


def _paint(pixels: NDArray[np.uint8], scene: MeshScene, hits: _Hits, lighting: Lighting, scene_from_camera: NDArray) -> None:
    """Write the shaded colours of the hits into (num_rays, 3) pixels."""
    towards_light = np.asarray(lighting.direction) / np.linalg.norm(lighting.direction)
    if lighting.in_camera_axes:
        towards_light = scene_from_camera[:3, :3] @ towards_light
    cosine = np.clip(hits.normals_scene @ towards_light.astype(np.float32), 0, None)
    shade = lighting.ambient + lighting.diffuse * cosine
    pixels[hits.ray] = np.clip(scene.albedo(hits) * shade[:, None] + 0.5, 0, 255).astype(np.uint8)
