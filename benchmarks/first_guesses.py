"""First guesses of one-shot pose in clutter: how often one of them is right, and what they cost, from keypoints and from templates.

Pictures and objects are those of `perception-eval clutter-pose`. A guess is right within 35 degrees and a fifth of the object's distance.

    .venv/bin/python benchmarks/first_guesses.py --meshes DIR --backgrounds DIR
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.types import Frame
from perception.evaluation.metrics.pose import pose_error
from perception.pipelines.dense_features import DenseFeatures
from perception.pipelines.keypoint_search import FrameKeypoints, find_keypoints
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.pipelines.template_search import find_templates, pyramid
from perception.rendering.reference_sources import ReferenceConfig, open_references
from perception_training.benchmarks.clutter_scenes import ClutterConfig, ClutterQuery, ClutterScenes, find_meshes, find_photographs
from perception_training.benchmarks.clutter_symmetries import texture_symmetries

POSE = OneShotPoseConfig()
FIRST = (1, 3, 6)
NUM_TEMPLATES = FIRST[-1]

Guesser = Callable[[Frame], Sequence[NDArray[np.float64]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meshes", type=Path, required=True, help="folder of meshes, or of folders with one each")
    parser.add_argument("--backgrounds", type=Path, required=True, help="folder of photographs, or of posed RGB-D frames")
    parser.add_argument("--objects", nargs="*", default=[], help="names of meshes to look for; all")
    parser.add_argument("--num-queries", type=int, default=30)
    arguments = parser.parse_args()
    paths = find_meshes(arguments.meshes)
    scenes = ClutterScenes(paths, find_photographs(arguments.backgrounds), ClutterConfig(num_queries=arguments.num_queries))
    features = DenseFeatures(POSE.features)
    print(f"{'object':24s} {'guesses from':12s} right among the first {' / '.join(map(str, FIRST))}   s a frame")
    for name in arguments.objects or paths:
        views = open_references(str(paths[name]), ReferenceConfig(num_viewpoints=96))
        database = build_database("target", views, features, OnboardingConfig())
        symmetries = list(texture_symmetries(scenes.mesh(name))[1:])
        queries = [scenes.query(name, number) for number in range(arguments.num_queries)]
        for kind, guess in (("keypoints", from_keypoints(database)), ("templates", from_templates(database, features))):
            print(f"{name:24s} {kind:12s} {report(guess, queries, symmetries)}", flush=True)


def from_keypoints(database: ObjectDatabase) -> Guesser:
    """As the pipeline takes them, with detecting the keypoints of the frame."""
    known = database.keypoints
    if known is None:
        return lambda frame: []
    return lambda frame: find_keypoints(known, FrameKeypoints(frame), POSE.solver)


def from_templates(database: ObjectDatabase, features: DenseFeatures) -> Guesser:
    """As the pipeline takes them, with computing the pyramid of the frame."""
    config, templates = POSE.any_roll, database.templates
    assert templates is not None

    def guess(frame: Frame) -> list[NDArray[np.float64]]:
        assert frame.camera is not None
        maps = pyramid(frame, features.step, config.num_scales, config.largest_scale)
        return [found.camera_from_object for found in find_templates(templates, maps, frame.camera, NUM_TEMPLATES)]

    return guess


def report(guess: Guesser, queries: Sequence[ClutterQuery], symmetries: list[NDArray[np.float64]]) -> str:
    """Shares of pictures with a right guess among the first few, and the median time."""
    places, seconds = [], []
    for number, query in enumerate(queries):
        started = time.perf_counter()
        guesses = guess(Frame(query.image, number + 1, query.camera))
        seconds.append(time.perf_counter() - started)
        right = (place for place, pose in enumerate(guesses) if is_right(pose, query.camera_from_object, symmetries))
        places.append(next(right, len(guesses) + FIRST[-1]))
    shares = " / ".join(f"{np.mean(np.array(places) < first):.2f}" for first in FIRST)
    return f"{shares:>38s}   {np.median(seconds):.2f}"


def is_right(pose: NDArray[np.float64], truth: NDArray[np.float64], symmetries: list[NDArray[np.float64]]) -> bool:
    """Near enough that a closer look can mend the rest."""
    rotation_deg, translation_cm = pose_error(pose, truth, symmetries)
    return bool(rotation_deg < 35 and translation_cm < 20 * np.linalg.norm(truth[:3, 3]))


if __name__ == "__main__":
    main()
