"""Global alignment: our refinement against 300 steps of Adam on the official parameters, from the same start, interleaved in one run.

    python benchmarks/global_alignment.py [--repeats 3] [--threads 2] [--fixture FOLDER]

Scenes have their truth known (`tests/support/point_map_pairs.py`); --fixture adds a folder of the parity set. Processor time is shown, best of the
repeats; that of `align` includes the start by the spanning tree, that of Adam does not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.point_map_pairs import wavy_scene

from perception.geometry.global_alignment import KnownCameras, PairObservations, Scene, align, alignment_loss, pair_observations
from perception.geometry.global_alignment.parameters import BASE_SCALE, parameters_of_scene, scene_of_parameters
from perception.geometry.global_alignment.spanning_tree import first_scene
from perception.geometry.scene_graph import image_pairs

_NUM_STEPS, _RATE, _LAST_RATE, _BETAS = 300, 0.01, 1e-6, (0.9, 0.9)


def adam(observations: PairObservations, start: Scene) -> float:
    """Loss after DUSt3R's own loop."""
    parameters = parameters_of_scene(Scene(*(getattr(start, name).float() for name in Scene.__dataclass_fields__)))
    trained = [parameters.pair_poses, parameters.log_depth, parameters.camera_poses, parameters.slow_log_focal]
    optimiser = torch.optim.Adam([value.requires_grad_() for value in trained], betas=_BETAS)
    principal = start.principal_px.float()
    for step in range(_NUM_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = _LAST_RATE + (_RATE - _LAST_RATE) * (1 + math.cos(math.pi * step / _NUM_STEPS)) / 2
        optimiser.zero_grad()
        alignment_loss(observations, scene_of_parameters(parameters, principal)).backward()
        optimiser.step()
    with torch.no_grad():
        return float(alignment_loss(observations, scene_of_parameters(parameters, principal)))


def measure(name: str, observations: PairObservations, repeats: int) -> None:
    """One row: losses and the best processor times."""
    known = KnownCameras().with_principal_points(observations)
    start = first_scene(observations, known, BASE_SCALE)
    ours, theirs = [], []
    for _ in range(repeats):
        begun = time.process_time()
        scene = align(observations)
        ours.append(time.process_time() - begun)
        begun = time.process_time()
        adam_loss = adam(observations, start)
        theirs.append(time.process_time() - begun)
    losses = f"{scene.start_loss:10.4g} | {scene.loss:10.4g} | {adam_loss:10.4g}"
    seconds = f"{min(ours):8.2f} | {min(theirs):8.2f} | {min(theirs) / min(ours):6.1f}"
    print(f"{name:28} | {scene.num_rounds:6} | {losses} | {seconds}", flush=True)


def fixture(folder: Path) -> PairObservations:
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "inputs.npz") as stored:
        maps: list[Tensor] = [torch.from_numpy(stored[name]) for name in ("pred_i", "conf_i", "pred_j", "conf_j")]
    return pair_observations(config["edges"], *maps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fixture", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'scene':28} | rounds | start loss |  our loss  | Adam loss  |  our s   |  Adam s  | ratio")
    if arguments.fixture is not None:
        measure("recorded, exact", fixture(arguments.fixture), arguments.repeats)
    for name, num_images, graph, size, noise in (
        ("4 exact, 24x32", 4, "complete", (24, 32), 0.0),
        ("4 noisy, 24x32", 4, "complete", (24, 32), 0.02),
        ("12 noisy in a row, 24x32", 12, "swin-2-noncyclic", (24, 32), 0.02),
        ("6 noisy, 96x128", 6, "complete", (96, 128), 0.02),
    ):
        measure(name, wavy_scene(num_images, image_pairs(num_images, graph), size=size, noise=noise).observations, arguments.repeats)


if __name__ == "__main__":
    main()
