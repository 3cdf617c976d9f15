"""The views of one mesh as a lazy sequence of frames: rendered when they are asked for."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io import meshes
from perception.io.meshes import MESH_SUFFIXES, Mesh
from perception.rendering.raycast import MeshScene, RenderedView, render
from perception_training.data.sample import ObjectTrack, Sample
from perception_training.data.sequences import FrameSequence
from perception_training.data.synthetic.mesh_views.config import MeshViewsConfig
from perception_training.data.synthetic.mesh_views.normalisation import normalised, normalised_from_mesh, poses, with_texture_for
from perception_training.data.synthetic.mesh_views.variation import background_source, drawn_lights, published_lights

DATASET = "mesh_views"
_Y_UP_SUFFIXES = (".glb", ".gltf")

ResultT = TypeVar("ResultT")


class MeshViews(FrameSequence):
    """All views of one mesh; the world is its normalised frame (centred, longest side 1, z up), so `Sample.points_world` are object coordinates.

    mesh: a file, or a mesh in memory · name: also part of the seed, so that objects differ in lights and backgrounds; by default parent folder
    and stem of the file. The same mesh, name, config and seed give the same views, whichever of them are asked for and in how many threads.
    Raises InputError that names the file.
    """

    def __init__(self, mesh: Mesh | str | Path, config: MeshViewsConfig | None = None, seed: int = 0, name: str = "") -> None:
        self.dataset, self.config, self.seed = DATASET, config or MeshViewsConfig(), seed
        self.name = name or (mesh.name or "mesh" if isinstance(mesh, Mesh) else object_name(mesh))
        self._source = mesh
        self._background = background_source(self.config.background, self.config.size_px)
        self.camera_from_object = poses(self.config.num_views, self.config.distance)

    def __getstate__(self) -> dict[str, Any]:
        # Neither Open3D's scene nor a function made here can be sent to a worker process; it makes its own.
        return {"arguments": (self._source, self.config, self.seed, self.name)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["arguments"])  # type: ignore[misc]

    @cached_property
    def _mesh_and_transform(self) -> tuple[Mesh, NDArray[np.float64]]:
        mesh = self._source if isinstance(self._source, Mesh) else meshes.load(self._source)
        is_gltf = not isinstance(self._source, Mesh) and Path(self._source).suffix.lower() in _Y_UP_SUFFIXES
        try:
            transform = normalised_from_mesh(mesh, self.config.up_axis == "y" or (self.config.up_axis == "auto" and is_gltf))
        except InputError as error:
            raise error if isinstance(self._source, Mesh) else InputError(f"mesh {self._source}: {error}") from error
        camera = self.config.camera
        return with_texture_for(normalised(mesh, transform), camera.fx / self.config.distance), transform

    @property
    def normalised_from_mesh(self) -> NDArray[np.float64]:
        """(4, 4) similarity from the coordinates in the file to those of the views."""
        return self._mesh_and_transform[1]

    @cached_property
    def _scene(self) -> MeshScene:
        return MeshScene({self.name: (self._mesh_and_transform[0], np.eye(4))})

    @cached_property
    def frame_names(self) -> tuple[str, ...]:
        return tuple(f"{index:06d}" for index in range(self.config.num_views))

    @cached_property
    def world_from_camera(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.inv(self.camera_from_object), np.float64)

    def render(self, index: int, num_threads: int = 1) -> RenderedView:
        """One view."""
        config, pose = self.config, self.camera_from_object[index]
        key = [self.seed, zlib.crc32(self.name.encode())]
        rng = np.random.default_rng([*key, index])
        background = self._background(rng)
        if config.lighting == "published":
            lights = replace(published_lights(config.distance), shadows=config.shadows)
        elif config.relight == "view":
            lights = drawn_lights(rng, config.num_lights, config.shadows, np.linalg.inv(pose)[:3, 3])
        else:
            lights = drawn_lights(np.random.default_rng(key), config.num_lights, config.shadows, None)
        return render(
            self._scene,
            config.camera,
            pose,
            lighting=lights,
            background=background,
            supersampling=config.supersampling,
            refine="outlines",
            num_threads=num_threads,
        )

    def map_views(self, function: Callable[[int, RenderedView], ResultT], indices: Iterable[int] | None = None) -> Iterator[ResultT]:
        """`function(index, view)` of the views in order, several views at a time in threads: their results come in order, too."""
        chosen = list(range(len(self)) if indices is None else indices)
        num_workers = min(self.config.num_threads or os.cpu_count() or 1, len(chosen))
        _ = self._scene
        if num_workers <= 1:
            yield from (function(index, self.render(index)) for index in chosen)
            return
        pool = ThreadPoolExecutor(num_workers)
        try:
            yield from pool.map(lambda index: function(index, self.render(index)), chosen)
        finally:
            pool.shutdown(cancel_futures=True)

    def load(self, frames: SequenceOf[int]) -> Sample:
        wrong = [frame for frame in frames if not 0 <= frame < len(self)]
        if wrong:
            raise InputError(f"{self.dataset}/{self.name}: frame {wrong[0]} is not there; must be in [0, {len(self)})")
        views = list(self.map_views(lambda _, view: view, frames))
        camera_from_object = self.camera_from_object[list(frames)]
        track = ObjectTrack(self.name, camera_from_object, mask_id=1, bounds=self._scene.bounds.astype(np.float64))
        return Sample(
            dataset=self.dataset,
            sequence=self.name,
            frame_names=tuple(self.frame_names[frame] for frame in frames),
            images=tuple(view.image for view in views),
            cameras=(self.config.camera,) * len(views),
            world_from_camera=self.world_from_camera[list(frames)],
            depth_m=tuple(view.depth_m for view in views),
            masks=tuple(view.mask.astype(np.int32) for view in views),
            normals=tuple(view.normals for view in views),
            objects=(track,),
            unit="arbitrary",
        )


def render_mesh_views(mesh: Mesh | str | Path, config: MeshViewsConfig | None = None, seed: int = 0) -> Sample:
    """All views of a mesh as one sample. For more views than memory holds take `MeshViews`, which renders what it is asked for."""
    sequence = MeshViews(mesh, config, seed)
    return sequence.load(range(len(sequence)))


def object_name(path: str | Path) -> str:
    """`<folder>/<stem>` of a mesh file, which in Objaverse is the object's place in the set, such as 000-151/607e232d7f14478082cfb13695ed7bd2."""
    path = Path(path).absolute()
    return f"{path.parent.name or 'meshes'}/{path.stem}"


def find_meshes(root: Path) -> list[Path]:
    """The mesh itself, or all meshes below a folder, sorted. Raises InputError when there are none."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"mesh {root}: no such file or folder")
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in MESH_SUFFIXES)
    if not found:
        raise InputError(f"folder {root} holds no meshes (looked for {', '.join(MESH_SUFFIXES)})")
    return found
