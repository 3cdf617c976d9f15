"""Views of textured meshes by ray casting on the CPU (Open3D): colour, depth, normals and the surface point under each pixel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from types import ModuleType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError, MissingDependencyError
from perception.core.types import Camera
from perception.geometry.camera import project, unproject
from perception.io.meshes import Mesh
from perception.rendering.lighting import Lighting, LightRig, dot

__all__ = ["BACKGROUND", "LightRig", "Lighting", "MeshScene", "RenderedView", "open3d", "render", "sample_texture"]

BACKGROUND = -1
"""Instance id of pixels that show no mesh."""

Refinement = Literal["contrast", "outlines"]

_GREY = 160
_SAMPLES_PER_ROW = 4096
_CONTRAST = 14
_SHADED_AT_ONCE = 8192
_NEAR = 1e-3
_JUMP_PX = 16.0
"""Depth that changes over three pixels by more than this many pixel widths is a jump; a plane seen under 83 degrees changes by as much."""
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_SHADOW_OFFSET = np.float32(1e-4)


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
    """Where rays meet the scene, for the rays that do: index of the ray, depth along z, face, barycentric coordinates, normal towards the camera
    and point, both in scene axes."""

    ray: NDArray[np.int64]
    depth_m: NDArray[np.float32]
    face: NDArray[np.int64]
    barycentric: NDArray[np.float32]
    normals: NDArray[np.float32]
    points: NDArray[np.float32]

    def part(self, chosen: slice) -> _Hits:
        """Some of the hits."""
        return _Hits(*(getattr(self, field.name)[chosen] for field in fields(self)))


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
        placed = np.ascontiguousarray(np.concatenate(vertices), dtype=np.float32)
        self.bounds = np.stack([placed.min(axis=0), placed.max(axis=0)])
        offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in self.meshes[:-1])])
        faces = np.concatenate([mesh.faces + offset for mesh, offset in zip(self.meshes, offsets, strict=True)])
        self._first_face = np.cumsum([0, *(len(mesh.faces) for mesh in self.meshes[:-1])])
        self._corner_values = tuple(_corner_values(mesh) for mesh in self.meshes)
        self._face_instance = np.repeat(np.arange(len(self.meshes), dtype=np.int32), [len(mesh.faces) for mesh in self.meshes])
        module = open3d()
        self._tensor = module.core.Tensor
        self._scene = module.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            self._tensor(placed),
            self._tensor(np.ascontiguousarray(faces, dtype=np.uint32)),
        )

    def occluded(self, origins: NDArray, directions: NDArray, max_distance: float = np.inf) -> NDArray[np.bool_]:
        """Whether something lies on the ray from `origins` (..., 3) along `directions` (..., 3), nearer than `max_distance` direction lengths."""
        rays = np.concatenate([origins, np.broadcast_to(directions, origins.shape)], axis=-1).astype(np.float32)
        return self._scene.test_occlusions(self._tensor(rays), tnear=1e-4, tfar=float(max_distance)).numpy()

    def lit(self, hits: _Hits, lights: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(num_hits, num_lights) which homogeneous lights (num_lights, 4) no surface hides from the hits."""
        origins = hits.points + _SHADOW_OFFSET * np.linalg.norm(self.bounds[1] - self.bounds[0]) * hits.normals
        answers = [self.occluded(origins, light[:3] - light[3] * origins, 1.0 if light[3] else np.inf) for light in lights]
        return ~np.stack(answers, axis=1) if answers else np.ones((len(origins), 0), np.bool_)

    def cast(self, directions_camera: NDArray[np.float32], scene_from_camera: NDArray, num_threads: int = 0) -> _Hits:
        """Cast rays (num, 3) with z = 1 in camera axes, so that the hit distance is the depth. num_threads 0: all."""
        origin = scene_from_camera[:3, 3].astype(np.float32)
        # As z is 1, one product turns the directions and puts the origin before them.
        ray_from_direction = np.zeros((3, 6), np.float32)
        ray_from_direction[2, :3], ray_from_direction[:, 3:] = origin, scene_from_camera[:3, :3].T
        rays = directions_camera @ ray_from_direction
        answer = self._scene.cast_rays(self._tensor(rays), nthreads=num_threads)
        distance = answer["t_hit"].numpy()
        ray = np.flatnonzero(np.isfinite(distance))
        depth_m, directions = distance.take(ray), rays.take(ray, axis=0)[:, 3:]
        normals = answer["primitive_normals"].numpy().take(ray, axis=0)
        normals *= np.where(dot(normals, directions) > 0, np.float32(-1), np.float32(1))[:, None]
        face, barycentric = answer["primitive_ids"].numpy().take(ray).astype(np.int64), answer["primitive_uvs"].numpy().take(ray, axis=0)
        return _Hits(ray, depth_m, face, barycentric, normals, directions * depth_m[:, None] + origin)

    def instance_of(self, hits: _Hits) -> NDArray[np.int32]:
        """(num_hits,) index into `names`."""
        return self._face_instance.take(hits.face)

    def albedo(self, hits: _Hits) -> NDArray[np.float32]:
        """(num_hits, 3) surface colour in [0, 255]."""
        if len(self.meshes) == 1:
            return self._albedo_of(0, hits.face, hits.barycentric)
        colors = np.empty((len(hits.ray), 3), np.float32)
        instance = self.instance_of(hits)
        for index, first_face in enumerate(self._first_face):
            chosen = np.flatnonzero(instance == index)
            if len(chosen):
                colors[chosen] = self._albedo_of(index, hits.face[chosen] - first_face, hits.barycentric[chosen])
        return colors

    def _albedo_of(self, index: int, face: NDArray[np.int64], barycentric: NDArray[np.float32]) -> NDArray[np.float32]:
        mesh, corner_values = self.meshes[index], self._corner_values[index]
        if corner_values is None:
            return np.full((len(face), 3), _GREY, np.float32)
        u, v = np.ascontiguousarray(barycentric.T)
        values = np.stack([(1 - u - v) * a.take(face) + u * b.take(face) + v * c.take(face) for a, b, c in corner_values]).T
        return values if mesh.texture is None or mesh.uv is None else sample_texture(mesh.texture, values)


def _corner_values(mesh: Mesh) -> NDArray[np.float32] | None:
    """(2, 3, num_faces) texture coordinates or (3, 3, num_faces) colours of each face's corners; None for a mesh without colour."""
    values = mesh.uv if mesh.texture is not None and mesh.uv is not None else mesh.vertex_colors
    return None if values is None else np.ascontiguousarray(values[mesh.faces].astype(np.float32).transpose(2, 1, 0))


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


@lru_cache(maxsize=8)
def _ray_directions(camera: Camera, supersampling: int) -> NDArray[np.float32]:
    """(height * width, s * s, 3) directions with z = 1 through the middles of s x s parts of every pixel."""
    inside = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    parts = np.stack(np.meshgrid(inside, inside), axis=-1).reshape(-1, 2)
    centres = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1).reshape(-1, 1, 2)
    pixels = centres + parts
    return np.asarray(unproject(pixels, np.ones(pixels.shape[:-1]), camera), np.float32)


def _window(bounds: NDArray[np.float32], camera: Camera, camera_from_scene: NDArray) -> tuple[slice, slice]:
    """Rows and columns outside of which nothing within these bounds (2, 3) can be seen; the whole image where that is not simple to tell."""
    whole = slice(0, camera.height), slice(0, camera.width)
    low, high = bounds.astype(np.float64)
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    in_camera = corners @ camera_from_scene[:3, :3].T + camera_from_scene[:3, 3]
    if camera.distortion_model != "none" or in_camera[:, 2].min() < _NEAR * (1 + np.abs(in_camera).max()):
        return whole
    pixels = project(in_camera, camera)
    left, top = np.floor(pixels.min(axis=0)).astype(np.int64) - 1
    right, bottom = np.ceil(pixels.max(axis=0)).astype(np.int64) + 2
    return slice(*np.clip((top, bottom), 0, camera.height).tolist()), slice(*np.clip((left, right), 0, camera.width).tolist())


def render(
    scene: Mesh | MeshScene,
    camera: Camera,
    camera_from_object: NDArray,
    *,
    lighting: Lighting | LightRig | None = None,
    background: tuple[int, int, int] | NDArray[np.uint8] = (255, 255, 255),
    supersampling: int = 1,
    refine: Refinement = "contrast",
    num_threads: int = 0,
) -> RenderedView:
    """Render a mesh or a scene.

    background: one RGB colour or an image of the camera's size · supersampling: where neighbouring pixels differ, colours are averaged over this
    number squared of rays in each pixel; depth, normals and points always belong to the ray through the pixel's centre · refine: wherever there is
    contrast, or only along outlines (several times faster; enough for textures of about one texel for each pixel) · num_threads: for the casting
    of rays, 0 takes all; callers that render views in parallel take 1.
    """
    if supersampling < 1:
        raise InputError(f"supersampling {supersampling}: must be at least 1")
    scene = MeshScene({scene.name or "object": (scene, np.eye(4))}) if isinstance(scene, Mesh) else scene
    lighting = lighting or Lighting()
    camera_from_object = np.asarray(camera_from_object, np.float64)
    scene_from_camera = np.linalg.inv(camera_from_object)
    size = (camera.height, camera.width)
    image = _background_image(background, size)
    depth_m, instance_ids = np.zeros(size, np.float32), np.full(size, BACKGROUND, np.int32)
    normals, points = np.zeros((*size, 3), np.float32), np.zeros((*size, 3), np.float32)
    rows, columns = _window(scene.bounds, camera, camera_from_object)
    if rows.start < rows.stop and columns.start < columns.stop:
        directions = _ray_directions(camera, 1).reshape(*size, 3)[rows, columns].reshape(-1, 3)
        hits = scene.cast(directions, scene_from_camera, num_threads)
        row, column = np.divmod(hits.ray, columns.stop - columns.start)
        pixels = (row + rows.start) * camera.width + column + columns.start
        depth_m.reshape(-1)[pixels], instance_ids.reshape(-1)[pixels] = hits.depth_m, scene.instance_of(hits)
        normals.reshape(-1, 3)[pixels] = hits.normals @ camera_from_object[:3, :3].T.astype(np.float32)
        points.reshape(-1, 3)[pixels] = hits.points
        backdrop = image[rows, columns].copy()
        image.reshape(-1, 3)[pixels] = _colors(scene, hits, lighting, scene_from_camera)
        if supersampling > 1:
            depth, ids = depth_m[rows, columns], instance_ids[rows, columns]
            chosen = _next_to_surface(ids) if refine == "contrast" else _on_outline(depth, ids, camera)
            eye = _Eye(scene, lighting, scene_from_camera, num_threads)
            _refine(image[rows, columns], backdrop, chosen, eye, camera, (rows, columns), supersampling)
    mask = instance_ids != BACKGROUND
    return RenderedView(image, depth_m, normals, mask, points, instance_ids, camera, camera_from_object)


@dataclass(frozen=True, eq=False)
class _Eye:
    """What is looked at, in which light and from where."""

    scene: MeshScene
    lighting: Lighting | LightRig
    scene_from_camera: NDArray
    num_threads: int


def _refine(
    image: NDArray[np.uint8],
    backdrop: NDArray[np.uint8],
    chosen: NDArray[np.bool_],
    eye: _Eye,
    camera: Camera,
    window: tuple[slice, slice],
    supersampling: int,
) -> None:
    """Average more rays in the chosen pixels where the image, a window (rows, columns) of the camera's, has contrast; in place."""
    row, column = np.nonzero(chosen & _has_contrast(image))
    if not len(row):
        return
    pixels = (row + window[0].start) * camera.width + column + window[1].start
    rays = _ray_directions(camera, supersampling).take(pixels, axis=0).reshape(-1, 3)
    fine = np.repeat(backdrop[row, column], supersampling**2, axis=0)
    hits = eye.scene.cast(rays, eye.scene_from_camera, eye.num_threads)
    fine[hits.ray] = _colors(eye.scene, hits, eye.lighting, eye.scene_from_camera)
    averages = fine.reshape(len(pixels), supersampling**2, 3).astype(np.float32).mean(axis=1)
    image[row, column] = np.rint(averages).astype(np.uint8)


def _background_image(background: tuple[int, int, int] | NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    pixels = np.asarray(background, np.uint8)
    if pixels.shape not in ((3,), (*size, 3)):
        raise InputError(f"background has shape {pixels.shape}: must be one RGB colour or an image of shape {(*size, 3)}")
    if pixels.ndim == 3:
        return pixels.copy()
    return np.tile(pixels, (size[1], 1))[None].repeat(size[0], axis=0)


def _next_to_surface(instance_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(height, width) pixels on a surface or beside one."""
    return cv2.dilate((instance_ids != BACKGROUND).astype(np.uint8), _NEIGHBOURS) > 0


def _on_outline(depth_m: NDArray[np.float32], instance_ids: NDArray[np.int32], camera: Camera) -> NDArray[np.bool_]:
    """(height, width) pixels beside the end of a surface: another instance, the background, or a jump in depth."""
    span = cv2.morphologyEx(depth_m, cv2.MORPH_GRADIENT, _NEIGHBOURS)
    ids = instance_ids.astype(np.float32)
    return (span > _JUMP_PX / camera.fx * depth_m) & (span > 0) | (cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, _NEIGHBOURS) > 0)


def _has_contrast(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(height, width) where a pixel's 3x3 neighbourhood spans more than _CONTRAST in a channel: only there more rays change the picture."""
    spans = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, _NEIGHBOURS)
    red, green, blue = cv2.split(spans)
    return cv2.max(cv2.max(red, green), blue) > _CONTRAST


def _colors(scene: MeshScene, hits: _Hits, lighting: Lighting | LightRig, scene_from_camera: NDArray) -> NDArray[np.uint8]:
    """(num_hits, 3) shaded colours. Part by part, so that what is in between stays in the processor's cache."""
    colors = np.empty((len(hits.ray), 3), np.uint8)
    for first in range(0, len(colors), _SHADED_AT_ONCE):
        part = slice(first, first + _SHADED_AT_ONCE)
        colors[part] = _shaded(scene, hits.part(part), lighting, scene_from_camera)
    return colors


def _shaded(scene: MeshScene, hits: _Hits, lighting: Lighting | LightRig, scene_from_camera: NDArray) -> NDArray[np.uint8]:
    colors = scene.albedo(hits)
    if isinstance(lighting, Lighting):
        colors = colors * lighting.factor(hits.normals, scene_from_camera)
    else:
        lit = scene.lit(hits, lighting.in_scene(scene_from_camera)) if lighting.shadows else None
        factor, highlight = lighting.shade(hits.points, hits.normals, scene_from_camera, lit)
        colors = colors * factor if highlight is None else colors * factor + 255 * highlight
    return np.clip(colors + 0.5, 0, 255).astype(np.uint8)
