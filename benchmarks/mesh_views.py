"""Views/s of the mesh renderer, beside the bare ray cast of as many pixels and the plain renderer that onboarding uses.

Every mesh is rendered as it is and divided until it has --triangles. The three are measured in turn, round after round, and the best round of each
counts; the last column has the processor time of each (ms per view, all threads together), which other programs disturb less. bare cast: Open3D
casts one ray for each pixel and nothing else is done · plain: `perception.rendering.raycast.render`, one view after the other, with more rays
wherever there is contrast · mesh views: `MeshViews` with its defaults, truth and seeded lights included.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/mesh_views.py --meshes DIR/*/textured.obj --num-threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import trimesh

from perception.geometry.camera import depth_to_points
from perception.io import meshes
from perception.io.meshes import Mesh
from perception.rendering import primitives, procedural_textures
from perception.rendering.raycast import MeshScene, open3d, render
from perception_training.data.synthetic.mesh_views import MeshViews, MeshViewsConfig
from perception_training.data.synthetic.mesh_views.normalisation import normalised, normalised_from_mesh
from perception_training.data.synthetic.mesh_views.views import object_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", nargs="*", type=Path, default=[], help="none: a ball with a drawn texture")
    parser.add_argument("--triangles", type=int, default=100_000)
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shadows", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # threads render views; OpenCV's own would only get in their way
    config = MeshViewsConfig(size_px=arguments.size_px, num_threads=arguments.num_threads, shadows=arguments.shadows)
    shapes = {object_name(path).split("/")[0]: meshes.load(path) for path in arguments.meshes} or {"ball": ball()}
    columns = ("triangles", "bare cast/s", "plain/s", "mesh views/s", "of bare", "of plain")
    print(f"{'mesh':22s}" + "".join(f"{column:>13s}" for column in columns) + f"{'ms bare/plain/views':>24s}")
    for name, mesh in shapes.items():
        variants = [mesh, divided(mesh, arguments.triangles)] if len(mesh.faces) < arguments.triangles else [mesh]
        for variant in variants:
            (bare, plain, views), busy_ms = measure(variant, config, arguments.rounds)
            busy = " / ".join(f"{value:.1f}" for value in busy_ms)
            rates = f"{bare:13.1f}{plain:13.1f}{views:13.1f}{views / bare:13.2f}{views / plain:13.2f}"
            print(f"{name:22s}{len(variant.faces):13d}{rates}{busy:>24s}")


def ball() -> Mesh:
    texture = procedural_textures.noise(np.random.default_rng(0), 512, 1024)
    return primitives.sphere(0.1, (255 * texture[..., None]).repeat(3, -1).astype(np.uint8))


def divided(mesh: Mesh, num_triangles: int) -> Mesh:
    """The mesh with its triangles cut into four until there are that many; an eighth of them keeps its size, to come near the number."""
    while len(mesh.faces) < num_triangles:
        missing = -(-(num_triangles - len(mesh.faces)) // 3)
        chosen = np.arange(min(missing, len(mesh.faces)))
        values = mesh.vertices if mesh.uv is None else np.column_stack([mesh.vertices, mesh.uv])
        vertices, faces = trimesh.remesh.subdivide(values, mesh.faces, face_index=chosen)
        uv = None if mesh.uv is None else vertices[:, 3:].astype(np.float32)
        mesh = replace(mesh, vertices=vertices[:, :3].astype(np.float32), faces=np.asarray(faces), uv=uv, vertex_colors=None)
    return mesh


def measure(mesh: Mesh, config: MeshViewsConfig, rounds: int) -> tuple[list[float], list[float]]:
    """Views/s and processor ms for each view of the bare cast, the plain renderer and the mesh views."""
    sequence = MeshViews(mesh, config, name="benchmark")
    poses, camera, every = sequence.camera_from_object, config.camera, range(config.num_views)
    scene = MeshScene({"mesh": (normalised(mesh, normalised_from_mesh(mesh, False)), np.eye(4))})
    triangles = open3d().t.geometry.RaycastingScene()
    tensor = open3d().core.Tensor
    triangles.add_triangles(tensor(scene.meshes[0].vertices), tensor(scene.meshes[0].faces.astype(np.uint32)))
    pixels = depth_to_points(np.ones((config.size_px,) * 2, np.float32), camera).reshape(-1, 3)
    rays = [tensor(pose_rays(pixels, np.linalg.inv(pose))) for pose in poses[::6]]

    def cast() -> int:
        for ray in rays:
            triangles.cast_rays(ray, nthreads=config.num_threads)
        return len(rays)

    def plain() -> int:
        for pose in poses[::6]:
            render(scene, camera, pose, background=(0, 0, 0), supersampling=2, num_threads=config.num_threads)
        return len(rays)

    def views() -> int:
        return sum(1 for _ in sequence.map_views(lambda _, view: view.camera, every))

    cast(), plain(), views()
    runs = [[timed(work) for work in (cast, plain, views)] for _ in range(rounds)]
    return [max(run[kind][0] for run in runs) for kind in range(3)], [min(run[kind][1] for run in runs) for kind in range(3)]


def pose_rays(pixels: np.ndarray, object_from_camera: np.ndarray) -> np.ndarray:
    """(num, 6) float32 origins and directions."""
    directions = pixels @ object_from_camera[:3, :3].T.astype(np.float32)
    return np.column_stack([np.broadcast_to(object_from_camera[:3, 3], directions.shape), directions]).astype(np.float32)


def timed(work: Callable[[], int]) -> tuple[float, float]:
    """Views/s, and processor ms for each view."""
    start, busy = time.perf_counter(), time.process_time()
    done = work()
    return done / (time.perf_counter() - start), 1e3 * (time.process_time() - busy) / done


if __name__ == "__main__":
    main()
