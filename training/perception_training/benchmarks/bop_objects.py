"""What a BOP set says of its objects and asks for: models for scoring, symmetries, diameters, and the list of targets.

Formats: thodan/bop_toolkit docs/bop_datasets_format.md and its `eval_bop19_pose.py` (snapshot cea62d6): errors are measured with `models_eval` where
the set has it, else with `models`; lengths in models_info.json are millimetres.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.evaluation.metrics.symmetries import symmetries_from_model_info
from perception.io import meshes
from perception.rendering.raycast import MeshScene, render
from perception_training.data.layouts.bop_objects import MILLIMETRE
from perception_training.data.layouts.json_entries import entry, numbers, read_list, read_object
from perception_training.data.readers.bop import TARGET_FILES

MODEL_FOLDERS = ("models_eval", "models")
_MAX_POINTS = 20_000
"""Errors are largest at few points; published evaluation models have about as many."""


@dataclass(frozen=True, eq=False)
class ScoredObject:
    """An object as its poses are judged: points (num, 3) and symmetries (num, 4, 4) in metres, diameter, and the surface for VSD."""

    points: NDArray[np.float64]
    symmetries: NDArray[np.float64]
    diameter_m: float
    surface: MeshScene

    def depth(self, camera: Camera, camera_from_object: NDArray[np.float64]) -> NDArray[np.float32]:
        """(height, width) depth of the object alone, 0 beside it."""
        return render(self.surface, camera, camera_from_object).depth_m


def load_scored_object(root: Path, object_id: int) -> ScoredObject:
    """The evaluation model of an object. Raises InputError that names the file when it or its description is missing."""
    folder = next((root / name for name in MODEL_FOLDERS if (root / name / "models_info.json").is_file()), root / MODEL_FOLDERS[-1])
    info_path = folder / "models_info.json"
    place = f"{info_path}, object {object_id}"
    info = read_object(info_path).get(str(object_id))
    if info is None:
        raise InputError(f"{info_path}: object {object_id} is not described")
    mesh = meshes.load(folder / f"obj_{object_id:06d}.ply", MILLIMETRE)
    points = mesh.vertices.astype(np.float64)
    try:
        symmetries = symmetries_from_model_info(info, metres_per_unit=MILLIMETRE)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return ScoredObject(
        points=points[:: -(-len(points) // _MAX_POINTS)],
        symmetries=symmetries,
        diameter_m=MILLIMETRE * float(numbers(info, "diameter", place, ())),
        surface=MeshScene({f"obj_{object_id:06d}": (mesh, np.eye(4))}),
    )


Targets = dict[tuple[int, int], dict[int, int]]
"""(scene id, image id) → object id → number of instances to find."""


def read_target_counts(root: Path) -> Targets | None:
    """The list of targets; None for a set without one (then everything that is annotated is a target)."""
    path = next((root / name for name in TARGET_FILES if (root / name).is_file()), None)
    if path is None:
        return None
    found: defaultdict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    for number, item in enumerate(read_list(path)):
        place = f"{path}, entry {number}"
        scene_id, image_id = entry(item, "scene_id", place, int), entry(item, "im_id", place, int)
        if "obj_id" not in item:
            raise InputError(f"{place}: names no object: it is for detection (BOP 2024); the benchmark needs a list with obj_id and inst_count")
        found[scene_id, image_id][entry(item, "obj_id", place, int)] = entry(item, "inst_count", place, int)
    return dict(found)
