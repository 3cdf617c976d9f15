"""Read textured meshes (OBJ, PLY, GLB and what else trimesh reads) into one typed `Mesh`, and write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from perception.core.errors import InputError

MESH_SUFFIXES = (".obj", ".ply", ".glb", ".gltf", ".stl", ".off")


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with a surface colour.

    vertices (num_vertices, 3) float32 metres · faces (num_faces, 3) int64 · uv (num_vertices, 2) float32, origin bottom left as in OBJ ·
    texture (height, width, 3) uint8 RGB · vertex_colors (num_vertices, 3) uint8 RGB. Without texture and vertex colours the mesh is grey.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    uv: NDArray[np.float32] | None = None
    texture: NDArray[np.uint8] | None = field(default=None, repr=False)
    vertex_colors: NDArray[np.uint8] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        where = f"mesh {self.name!r}" if self.name else "mesh"
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3 or not len(self.vertices):
            raise InputError(f"{where}: vertices have shape {self.vertices.shape}: must be (num, 3) with num > 0")
        if not np.isfinite(self.vertices).all():
            raise InputError(f"{where}: vertices must be finite")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3 or not len(self.faces):
            raise InputError(f"{where} has {len(self.vertices)} vertices but no faces: a surface is needed, not a point cloud")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise InputError(f"{where}: faces name vertex {self.faces.max()}, there are {len(self.vertices)}")
        for label, array in (("uv", self.uv), ("vertex_colors", self.vertex_colors)):
            if array is not None and len(array) != len(self.vertices):
                raise InputError(f"{where}: {len(array)} {label} for {len(self.vertices)} vertices")

    @property
    def bounds(self) -> NDArray[np.float32]:
        """(2, 3) lower and upper corner in metres."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    @property
    def center(self) -> NDArray[np.float32]:
        """(3,) middle of the bounding box in metres."""
        return self.bounds.mean(0)

    @property
    def diameter_m(self) -> float:
        """Diagonal of the bounding box in metres."""
        return float(np.linalg.norm(self.bounds[1] - self.bounds[0]))


def load(path: str | Path, scale: float = 1.0) -> Mesh:
    """Read a mesh file; all its parts become one mesh. `scale` turns the file's unit into metres (0.001 for mm).

    Raises InputError when the file is missing, unreadable, without faces, or names a texture file that is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"mesh {path}: no such file")
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InputError(f"mesh {path}: must be one of {', '.join(MESH_SUFFIXES)}")
    if not path.stat().st_size:
        raise InputError(f"mesh {path}: the file is empty")
    _check_texture_files(path)
    try:
        loaded = trimesh.load(path, process=False)
        parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    except Exception as error:  # trimesh lets whatever its parsers raise through
        raise InputError(f"mesh {path}: cannot be read ({error})") from error
    parts = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise InputError(f"mesh {path} has no faces: a surface is needed, not a point cloud")
    return _merge([_from_trimesh(part, scale, str(path)) for part in parts], path.stem)


def _check_texture_files(path: Path) -> None:
    """trimesh goes on without a texture that is missing, which shows only as a grey object."""
    if path.suffix.lower() == ".ply":
        header = path.read_bytes()[:4096].split(b"end_header")[0].decode(errors="replace")
        for line in header.splitlines():
            if line.startswith("comment TextureFile "):
                _check_picture(path, path.parent / line.removeprefix("comment TextureFile ").strip())
    if path.suffix.lower() != ".obj":
        return
    for library in _statements(path, "mtllib"):
        material = path.parent / library
        if not material.is_file():
            raise InputError(f"mesh {path}: its material file {material} is missing")
        for name in _statements(material, "map_Kd"):
            whole = material.parent / name
            _check_picture(path, whole if whole.is_file() else material.parent / name.split()[-1])  # options may stand before the name


def _check_picture(mesh: Path, texture: Path) -> None:
    if not texture.is_file():
        raise InputError(f"mesh {mesh}: its texture {texture} is missing")
    try:
        with Image.open(texture) as image:
            image.load()
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"mesh {mesh}: its texture {texture} cannot be read ({error})") from error


def _statements(path: Path, keyword: str) -> list[str]:
    with path.open(errors="replace") as lines:
        return [line.split(None, 1)[1].strip() for line in lines if line.startswith(keyword + " ")]


def _from_trimesh(part: Any, scale: float, name: str) -> Mesh:
    uv = texture = colors = None
    visual = part.visual
    if isinstance(visual, trimesh.visual.TextureVisuals):
        image = _texture_image(visual.material)
        if image is not None and visual.uv is not None:
            texture, uv = np.asarray(image.convert("RGB")), np.asarray(visual.uv, np.float32)
        else:
            colors = np.tile(np.asarray(visual.material.main_color)[:3].astype(np.uint8), (len(part.vertices), 1))
    elif visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors)[:, :3].astype(np.uint8)
    elif visual.kind == "face":  # every corner gets its own vertex, so that colours do not run into each other
        colors = np.repeat(np.asarray(visual.face_colors)[:, :3].astype(np.uint8), 3, axis=0)
        vertices = part.vertices[part.faces].reshape(-1, 3)
        return Mesh((vertices * scale).astype(np.float32), np.arange(len(vertices)).reshape(-1, 3), None, None, colors, name)
    return Mesh((part.vertices * scale).astype(np.float32), np.asarray(part.faces, np.int64), uv, texture, colors, name)


def _texture_image(material: Any) -> Any:
    for name in ("image", "baseColorTexture"):
        image = getattr(material, name, None)
        if image is not None:
            return image
    return None


def _merge(parts: list[Mesh], name: str) -> Mesh:
    """One mesh of several; their textures are stacked into one picture, and their texture coordinates wrapped into it."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    vertices = np.concatenate([part.vertices for part in parts])
    faces = np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=True)])
    textured = [part for part in parts if part.texture is not None]
    if len(parts) == 1 or not textured:
        if len(parts) == 1:
            return Mesh(vertices, faces, parts[0].uv, parts[0].texture, parts[0].vertex_colors, name)
        return Mesh(vertices, faces, None, None, np.concatenate([_colors(part) for part in parts]), name)
    return _merge_textured(parts, vertices, faces, name)


def _colors(part: Mesh) -> NDArray[np.uint8]:
    return part.vertex_colors if part.vertex_colors is not None else np.full((len(part.vertices), 3), 128, np.uint8)


def _merge_textured(parts: list[Mesh], vertices: NDArray, faces: NDArray, name: str) -> Mesh:
    """Textures go below each other, each with a border of its own edge colours, so that bilinear lookups do not mix them."""
    pictures = [part.texture if part.texture is not None else _colors(part)[:1, None, :] for part in parts]
    tiles = [np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge") for picture in pictures]
    height, width, top = sum(tile.shape[0] for tile in tiles), max(tile.shape[1] for tile in tiles), 0
    atlas, uv = np.zeros((height, width, 3), np.uint8), []
    for part, tile in zip(parts, tiles, strict=True):
        atlas[top : top + tile.shape[0], : tile.shape[1]] = tile
        own = part.uv if part.uv is not None else np.full((len(part.vertices), 2), 0.5, np.float32)
        inside = np.where((own < 0) | (own > 1), own - np.floor(own), own)
        u = (1 + inside[:, 0] * (tile.shape[1] - 2)) / width
        v = 1 - (top + 1 + (1 - inside[:, 1]) * (tile.shape[0] - 2)) / height
        uv.append(np.stack([u, v], 1).astype(np.float32))
        top += tile.shape[0]
    return Mesh(vertices, faces, np.concatenate(uv), atlas, None, name)


def save(mesh: Mesh, path: str | Path) -> None:
    """Write OBJ (with .mtl and texture beside it), GLB or PLY, as the suffix says. PLY keeps a texture only as the colours of its vertices."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    visual: Any = None
    is_ply = path.suffix.lower() == ".ply"
    if mesh.texture is not None and mesh.uv is not None and is_ply:
        height, width = mesh.texture.shape[:2]
        column = np.clip(mesh.uv[:, 0] * width, 0, width - 1).astype(int)
        row = np.clip((1 - mesh.uv[:, 1]) * height, 0, height - 1).astype(int)
        visual = trimesh.visual.ColorVisuals(vertex_colors=mesh.texture[row, column])
    elif mesh.texture is not None and mesh.uv is not None:
        material = trimesh.visual.material.SimpleMaterial(image=Image.fromarray(mesh.texture))
        material.name = f"{path.stem}_texture"
        visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    elif mesh.vertex_colors is not None:
        visual = trimesh.visual.ColorVisuals(vertex_colors=mesh.vertex_colors)
    surface = trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False)
    if path.suffix.lower() == ".obj":
        text, files = trimesh.exchange.obj.export_obj(surface, return_texture=True, mtl_name=f"{path.stem}.mtl")
        path.write_text(text)
        for name, data in files.items():
            (path.parent / name).write_bytes(data)
    elif path.suffix.lower() in (".ply", ".glb"):
        surface.export(path)
    else:
        raise InputError(f"mesh {path}: can be written as .obj, .ply or .glb")
