"""Pictures of a mesh in clutter, with the truth: photograph, other meshes behind, the object in random light, occluders in front, then the sensor.

Picture k of an object is a function of (seed, name, k) alone. All viewing directions are as likely; the distance is such that the longer side of the
object's box in the picture has a size drawn evenly from a range; what is hidden is drawn evenly up to a largest share.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError, InputError
from perception.core.types import Camera
from perception.geometry.camera import project, unproject
from perception.geometry.se3 import from_rotation_translation, transform_points
from perception.io import meshes
from perception.io.images import list_images, read_image
from perception.rendering.raycast import MeshScene
from perception.rendering.viewpoints import look_at
from perception_training.benchmarks.clutter_layers import Layer, hide_share, piece_of, rendered_layer
from perception_training.data.synthetic.mesh_views.variation import drawn_lights

_CACHED_PHOTOGRAPHS = 16
_MARGIN_PX = 4
_MAX_OCCLUDERS = 4
_MAX_LIGHTS = 3
_SIZING_STEPS = 8
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class ClutterConfig(Checked):
    """How pictures are made."""

    num_queries: Annotated[int, Range(1, 100_000)] = 30
    """Pictures of each object."""
    size_px: tuple[float, ...] = (150.0, 300.0)
    """Smallest and largest longer side of the object's box in the picture."""
    max_roll_deg: Annotated[float, Range(0.0, 180.0, "deg")] = 180.0
    """How far the camera is turned about its axis, either way, from where the mesh's z axis points up in the picture; 180: any rotation."""
    max_occlusion: Annotated[float, Range(0.0, 0.9)] = 0.45
    """Largest share of the object that is hidden."""
    occlusion_tolerance: Annotated[float, Range(0.001, 0.2)] = 0.02
    """By how much less may be hidden than was drawn."""
    num_others: Annotated[int, Range(0, 20)] = 3
    """Other meshes behind the object."""
    width: Annotated[int, Range(64, 4096, "px")] = 640
    height: Annotated[int, Range(64, 4096, "px")] = 480
    focal_px: Annotated[float, Range(10.0, 100_000.0, "px")] = 525.0
    """Of the pictures; the principal point is in their middle."""
    max_blur_px: Annotated[float, Range(0.0, 10.0, "px")] = 0.9
    """Largest deviation of the blur."""
    max_noise: Annotated[float, Range(0.0, 100.0, "grey levels")] = 5.0
    """Largest deviation of the noise."""
    min_jpeg_quality: Annotated[int, Range(1, 100)] = 70
    """Lowest JPEG quality; 95 is the highest."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        low_high = self.size_px
        if len(low_high) != 2 or not 8 <= low_high[0] <= low_high[1] <= min(self.width, self.height) - 8 * _MARGIN_PX:
            raise ConfigError(f"ClutterConfig.size_px = {list(low_high)}: must be two sizes of at least 8 px that fit {self.width}x{self.height}")

    @property
    def camera(self) -> Camera:
        """Intrinsics of all pictures."""
        return Camera(self.width, self.height, self.focal_px, self.focal_px, (self.width - 1) / 2, (self.height - 1) / 2)


@dataclass(frozen=True, eq=False)
class ClutterQuery:
    """image (height, width, 3) · camera_from_object (4, 4) · size_px: longer side of the object's box in the picture · occlusion: share of its
    pixels that is hidden · outline and visible (height, width): the object without and with what hides it. Methods are given image and camera."""

    image: NDArray[np.uint8]
    camera: Camera
    camera_from_object: NDArray[np.float64]
    size_px: float
    occlusion: float
    outline: NDArray[np.bool_]
    visible: NDArray[np.bool_]


def find_meshes(folder: Path) -> dict[str, Path]:
    """Object → mesh file: each mesh in the folder, and the first of each folder in it (as YCB has them). Raises InputError when there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; must hold meshes ({', '.join(meshes.MESH_SUFFIXES)}) or folders with one each")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        inside = sorted(item for item in path.iterdir() if item.suffix.lower() in meshes.MESH_SUFFIXES) if path.is_dir() else []
        if inside or path.suffix.lower() in meshes.MESH_SUFFIXES:
            found[path.stem] = inside[0] if inside else path
    if not found:
        raise InputError(f"{folder}: holds no meshes ({', '.join(meshes.MESH_SUFFIXES)}), nor folders with one each")
    return found


def find_photographs(folder: Path) -> list[Path]:
    """Images of a folder; of posed RGB-D frames the colour images."""
    paths = list_images(folder)
    return [path for path in paths if ".color." in path.name] or paths


class ClutterScenes:
    """Makes the pictures. `paths`: object → mesh file, in the order in which they are known."""

    def __init__(self, paths: Mapping[str, Path], photographs: list[Path], config: ClutterConfig, mesh_scale: float = 1.0) -> None:
        self.config, self.camera = config, config.camera
        self._paths, self._photographs, self._scale = dict(paths), photographs, mesh_scale
        self._read = lru_cache(maxsize=_CACHED_PHOTOGRAPHS)(read_image)
        self._scenes: dict[str, MeshScene] = {}

    def mesh(self, name: str) -> meshes.Mesh:
        """The mesh of an object, in metres."""
        return self._scene(name).meshes[0]

    def query(self, name: str, number: int) -> ClutterQuery:
        """Picture `number` of an object."""
        config = self.config
        rng = np.random.default_rng([config.seed, zlib.crc32(name.encode()), number])
        image = self._photograph(rng).astype(np.float32) * np.float32(rng.uniform(0.75, 1.15))
        others = [other for other in self._paths if other != name]
        for _ in range(config.num_others if others else 0):
            self._mesh_layer(others, self._size_px(rng), rng).centred(rng.uniform(0, (config.width, config.height))).over(image)
        target = rng.uniform(0, config.max_occlusion)
        pose = self._pose(self.mesh(name), rng)
        layer = self._lit(name, pose, rng)
        layer.over(image)
        outline = layer.mask(config.height, config.width)
        size_px = float(max(layer.alpha.shape))

        def draw() -> Layer:
            side = size_px * rng.uniform(0.5, 1.0)
            return self._mesh_layer(others, side, rng) if others and rng.random() < 0.5 else piece_of(self._photograph(rng), side, rng)

        visible = outline.copy()
        for occluder in hide_share(outline, target, draw, rng, _MAX_OCCLUDERS, config.occlusion_tolerance):
            occluder.over(image)
            visible &= ~occluder.mask(config.height, config.width)
        occlusion = 1 - float(visible.sum() / max(1, outline.sum()))
        return ClutterQuery(sensed(image, config, rng), self.camera, pose, size_px, occlusion, outline, visible)

    def _scene(self, name: str) -> MeshScene:
        if name not in self._scenes:
            self._scenes[name] = MeshScene({name: (meshes.load(self._paths[name], self._scale), np.eye(4))})
        return self._scenes[name]

    def _photograph(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A photograph that fills the picture, perhaps mirrored."""
        image = self._read(self._photographs[int(rng.integers(len(self._photographs)))])
        width, height = self.config.width, self.config.height
        scale = max(width / image.shape[1], height / image.shape[0])
        size = max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale))
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        cut = resized[top : top + height, left : left + width]
        return np.ascontiguousarray(cut[:, ::-1] if rng.random() < 0.5 else cut).astype(np.uint8, copy=False)

    def _pose(self, mesh: meshes.Mesh, rng: np.random.Generator) -> NDArray[np.float64]:
        """camera_from_object: any rotation, all of the object in the picture."""
        config, size_px = self.config, self._size_px(rng)
        for _ in range(_TRIES):
            rotation = self._rotation(rng)
            around = size_px / 2 + 2 * _MARGIN_PX
            centre_px = rng.uniform(around, (config.width - 1 - around, config.height - 1 - around))
            pose, box_px = placed(mesh, rotation, centre_px, size_px, self.camera)
            if (box_px[0] >= _MARGIN_PX).all() and (box_px[1] <= (config.width - 1 - _MARGIN_PX, config.height - 1 - _MARGIN_PX)).all():
                return pose
        raise InputError(f"mesh {mesh.name!r}: does not fit a picture of {config.width}x{config.height} at {size_px:.0f} px; take smaller size_px")

    def _size_px(self, rng: np.random.Generator) -> float:
        low, high = self.config.size_px
        return float(rng.uniform(low, high))

    def _rotation(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """camera_from_object (3, 3): any viewing direction, rolled within the limit."""
        direction = rng.normal(size=3)
        upright = look_at(direction / np.linalg.norm(direction), np.zeros(3))[:3, :3]
        roll = np.radians(rng.uniform(-self.config.max_roll_deg, self.config.max_roll_deg))
        return np.asarray(Rotation.from_rotvec([0.0, 0.0, roll]).as_matrix() @ upright, np.float64)

    def _lit(self, name: str, camera_from_object: NDArray[np.float64], rng: np.random.Generator) -> Layer:
        towards_camera = -camera_from_object[:3, :3].T @ camera_from_object[:3, 3]
        return rendered_layer(self._scene(name), self.camera, camera_from_object, drawn_lights(rng, _MAX_LIGHTS, False, towards_camera))

    def _mesh_layer(self, names: list[str], size_px: float, rng: np.random.Generator) -> Layer:
        """One of these meshes from anywhere, in the middle of the picture."""
        name = names[int(rng.integers(len(names)))]
        rotation = Rotation.random(random_state=rng).as_matrix()
        pose, _ = placed(self.mesh(name), rotation, np.array([self.camera.cx, self.camera.cy]), size_px, self.camera)
        return self._lit(name, pose, rng)


def placed(
    mesh: meshes.Mesh, rotation: NDArray[np.float64], centre_px: NDArray, size_px: float, camera: Camera
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """camera_from_object that shows a mesh at this pixel with this longer side, and its box (2, 2) in the picture."""
    vertices, middle = mesh.vertices.astype(np.float64), mesh.center.astype(np.float64)
    ray = np.asarray(unproject(np.asarray(centre_px, np.float64)[None], np.ones(1), camera))[0]
    depth_m = camera.fx * mesh.diameter_m / size_px
    for _ in range(_SIZING_STEPS):
        pose = from_rotation_translation(rotation, depth_m * ray - rotation @ middle)
        points_px = project(transform_points(pose, vertices), camera)
        box_px = np.stack([points_px.min(axis=0), points_px.max(axis=0)])
        ratio = float((box_px[1] - box_px[0]).max()) / size_px
        if abs(ratio - 1) < 1e-3:
            break
        depth_m = max(depth_m * ratio, 0.6 * mesh.diameter_m)
    return pose, box_px


def sensed(image: NDArray[np.float32], config: ClutterConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a camera makes of it: blur, tint, noise and JPEG."""
    blur_px = rng.uniform(0.0, config.max_blur_px)
    if blur_px > 0.1:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), blur_px), np.float32)
    image = image * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    image += rng.normal(0.0, rng.uniform(0.0, config.max_noise), image.shape).astype(np.float32)
    quality = int(rng.integers(min(config.min_jpeg_quality, 95), 96))
    _, data = cv2.imencode(".jpg", np.clip(np.rint(image), 0, 255).astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, "OpenCV cannot read what it wrote"
    return np.ascontiguousarray(decoded[..., ::-1]).astype(np.uint8, copy=False)
