"""Scores of one-shot pose when the object is there and when it is not: from these the default `min_score` is taken.

Every mesh is onboarded from rendered views, then looked for in real frames into which it, or another mesh, was rendered.

    .venv/bin/python benchmarks/pose_scores.py --meshes DIR/*/textured.obj --frames DIR_OF_POSED_FRAMES
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from perception.core.types import Camera, Frame, PoseEstimate
from perception.geometry import so3
from perception.io import meshes
from perception.io.posed_frames import PosedFrameFolder
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig
from perception.rendering.raycast import MeshScene, render
from perception.rendering.reference_sources import ReferenceConfig, open_references
from perception.rendering.viewpoints import look_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", nargs="+", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True, help="backgrounds: a folder of posed RGB-D frames")
    parser.add_argument("--num-queries", type=int, default=12, help="queries per mesh, present and absent each")
    parser.add_argument("--num-viewpoints", type=int, default=96)
    arguments = parser.parse_args()
    features = DenseFeatures(OneShotPoseConfig().features)
    backgrounds = [frame.frame for frame in list(PosedFrameFolder(arguments.frames))[:: max(1, 150 // arguments.num_queries)]]
    rng = np.random.default_rng(0)
    shapes = {path.parent.name if path.stem == "textured" else path.stem: meshes.load(path) for path in arguments.meshes}
    names = list(shapes)
    print(f"{'mesh':24s} {'case':8s} {'answered':>8s} {'5cm-5deg':>8s} {'score min/median/max':>24s} {'s/frame':>8s}")
    for number, (name, path) in enumerate(zip(names, arguments.meshes, strict=True)):
        source = open_references(str(path), ReferenceConfig(num_viewpoints=arguments.num_viewpoints))
        pipeline = OneShotPose(OneShotPoseConfig(temporal_prior=False), features)
        pipeline.add_object(build_database("target", source, features, OnboardingConfig()))
        for case, shown in (("present", name), ("absent", names[(number + 1) % len(names)])):
            report(name, case, [query(pipeline, shapes[shown], background, rng, case == "present") for background in backgrounds])


def query(pipeline: OneShotPose, mesh: meshes.Mesh, background: Frame, rng: np.random.Generator, present: bool) -> tuple[float, bool, float]:
    """(score, pose right, seconds) of one frame with a mesh rendered at a random pose of 1.5 to 2.6 times its size away."""
    camera = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)
    low, high = mesh.bounds
    size = float((high - low).max())
    direction = rng.normal(size=3)
    position = (low + high) / 2 + direction / np.linalg.norm(direction) * size * rng.uniform(1.5, 2.6)
    camera_from_object = look_at(position, (low + high) / 2)
    camera_from_object[:2, 3] += rng.uniform(-0.3, 0.3, 2) * size
    view = render(MeshScene({"mesh": (mesh, np.eye(4))}), camera, camera_from_object, background=background.image, supersampling=2)
    start = time.perf_counter()
    result = pipeline.step(Frame(view.image, 1, camera))
    seconds = time.perf_counter() - start
    found = (*result.estimates, *result.misses)[0]
    return found.score, present and isinstance(found, PoseEstimate) and is_right(found.camera_from_object, camera_from_object), seconds


def is_right(estimated: np.ndarray, true: np.ndarray) -> bool:
    """Within 5 cm and 5 degrees."""
    angle = so3.rotation_angle(estimated[:3, :3].T @ true[:3, :3])
    return bool(np.degrees(angle) < 5 and np.linalg.norm(estimated[:3, 3] - true[:3, 3]) < 0.05)


def report(name: str, case: str, found: list[tuple[float, bool, float]]) -> None:
    """One line: share answered at the default threshold, share right, range of the scores, of the right ones apart."""
    scores, right, seconds = (np.array(column) for column in zip(*found, strict=True))
    threshold = OneShotPoseConfig().min_score
    spread = "/".join(f"{value:.2f}" for value in np.quantile(scores, [0, 0.5, 1]))
    wrong = f"highest wrong {scores[~right].max():.2f}" if (~right).any() else ""
    lowest = f"lowest right {scores[right].min():.2f}" if right.any() else ""
    print(
        f"{name:24s} {case:8s} {np.mean(scores >= threshold):8.2f} {np.mean(right):8.2f} {spread:>24s} {np.median(seconds):8.2f}  {wrong} {lowest}",
        flush=True,
    )


if __name__ == "__main__":
    main()
