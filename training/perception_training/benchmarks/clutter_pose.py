"""One-shot object pose in clutter: learn meshes from renders of 96 views, find each in pictures that hide up to 45 % of it before real backgrounds.

Our own protocol (issue 4): `clutter_scenes` says how pictures are made. Every method is given the same 96 rendered views with their depth, then the
whole picture and its camera: no box, no mask, no prior. A pose counts at 1, 3 or 5 cm and degrees when both errors are below, against the nearest of
the poses that look the same (`clutter_symmetries`, measured on the textured mesh); ADD below a tenth of the diameter beside it (ADI for objects
with symmetries). Shares over all are means over objects.
"""

from __future__ import annotations

import base64
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import unknown_name
from perception.core.types import Frame
from perception.evaluation.metrics.pose import add_error_m, adi_error_m, median_error, pose_error, pose_recall
from perception.evaluation.provenance import Header
from perception.pipelines.onboarding import OnboardingConfig
from perception.pipelines.one_shot_pose import OneShotPoseConfig
from perception.rendering.reference_sources import ReferenceConfig, open_references
from perception_training.benchmarks.clutter_scenes import ClutterConfig, ClutterQuery, ClutterScenes, find_meshes, find_photographs
from perception_training.benchmarks.clutter_sheet import clutter_sheet
from perception_training.benchmarks.clutter_symmetries import texture_symmetries
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.plots import Line, bar_plot
from perception_training.benchmarks.pose_methods import KnownObject, pose_methods
from perception_training.benchmarks.records import Record
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, compared_header, listing_identity
from perception_training.benchmarks.sift_keypoints import SiftKeypoints

ALL = "all objects"
_OCCLUSION_EDGES = (0.0, 0.15, 0.30, 1.0)
_SIZE_EDGES_PX = (100.0, 150.0, 200.0, 250.0, 300.0)
_ADD_SHARE = 0.1
_ADD_POINTS = 2_000
_PICTURE_WIDTH = 320
_PICTURE_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class ClutterPoseConfig(Checked):
    """Which objects, how they are learnt and looked for."""

    objects: tuple[str, ...] = ()
    """Names of meshes to look for; empty: all in the folder. The others still lie in the clutter."""
    clutter: ClutterConfig = ClutterConfig()
    num_pictures: Annotated[int, Range(0, 100)] = 4
    """So many pictures of each object are kept, small, for the contact sheet."""
    reference: ReferenceConfig = ReferenceConfig(num_viewpoints=96)
    database: OnboardingConfig = OnboardingConfig()
    pose: OneShotPoseConfig = OneShotPoseConfig(temporal_prior=False, min_score=0.0)
    """How the pose is found from dense features. `features` and `databases` in it are not looked at."""


class ClutterPose(Benchmark):
    """Units are objects; every method sees each picture in turn."""

    name: ClassVar[str] = "clutter_pose"

    def __init__(
        self, folder: Path, backgrounds: Path, extractors: Sequence[BenchmarkFeatures | SiftKeypoints], config: ClutterPoseConfig | None = None
    ) -> None:
        self.config = config or ClutterPoseConfig()
        self.paths, self.photographs = find_meshes(folder), find_photographs(backgrounds)
        self.folder, self.backgrounds = folder, backgrounds
        for name in self.config.objects:
            if name not in self.paths:
                raise unknown_name(f"{folder}: object", name, self.paths)
        self.methods = pose_methods(extractors, self.config.database, self.config.pose)
        self.scenes = ClutterScenes(self.paths, self.photographs, self.config.clutter, self.config.reference.mesh_scale)

    @cached_property
    def header(self) -> Header:
        listed = [*self.paths, *(path.name for path in self.photographs)]
        source = listing_identity(f"meshes of {self.folder.resolve().name} before", self.backgrounds, listed)
        return compared_header(self.name, list(self.methods.values()), to_mapping(self.config), source)

    @property
    def units(self) -> tuple[str, ...]:
        return self.config.objects or tuple(self.paths)

    def predict(self, unit: str) -> Record:
        mesh = self.scenes.mesh(unit)
        symmetries = texture_symmetries(mesh)
        known = self._learnt(unit)
        points = mesh.vertices[:: -(-len(mesh.vertices) // _ADD_POINTS)].astype(np.float64)
        queries = []
        for number in range(self.config.clutter.num_queries):
            query = self.scenes.query(unit, number)
            truth = {"truth": query.camera_from_object, "size_px": query.size_px, "occlusion": query.occlusion}
            found = {label: _answer(item, query, number, points, symmetries) for label, item in known.items()}
            queries.append({**truth, "found": found, "picture": _small(query.image) if number < self.config.num_pictures else None})
        camera = self.config.clutter.camera
        return {
            "queries": queries,
            "symmetries": symmetries,
            "bounds": mesh.bounds,
            "camera": [camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy],
            "add_threshold_m": _ADD_SHARE * _diameter_m(points),
            "num_points": {label: item.num_points for label, item in known.items()},
        }

    def _learnt(self, unit: str) -> dict[str, KnownObject]:
        """What each method knows of an object, whose views are rendered once."""
        views = list(open_references(str(self.paths[unit]), self.config.reference))
        return {label: method.learn("object", views, str(self.paths[unit])) for label, method in self.methods.items()}


def _answer(known: KnownObject, query: ClutterQuery, number: int, points: NDArray[np.float64], symmetries: NDArray[np.float64]) -> dict[str, Any]:
    """What a method says of a picture, with the time that it took and its ADD error."""
    started = time.perf_counter()
    result = known.step(Frame(query.image, number + 1, query.camera))
    elapsed_s = time.perf_counter() - started
    if not result.estimates:
        miss = result.misses[0]
        return {
            "pose": None,
            "reason": miss.reason,
            "num_matches": miss.num_matches,
            "num_inliers": 0,
            "score": None,
            "add_m": None,
            "step_s": elapsed_s,
        }
    (found,) = result.estimates
    add = add_error_m if len(symmetries) == 1 else adi_error_m
    return {
        "pose": found.camera_from_object,
        "reason": "",
        "num_matches": found.num_matches,
        "num_inliers": found.num_inliers,
        "score": found.score,
        "add_m": add(found.camera_from_object, query.camera_from_object, points),
        "step_s": elapsed_s,
    }


def _diameter_m(points: NDArray[np.float64]) -> float:
    """Largest distance between two of the points."""
    return float(max(np.linalg.norm(points - point, axis=1).max() for point in points))


def _small(image: NDArray[np.uint8]) -> str:
    """A picture as text."""
    height = round(image.shape[0] * _PICTURE_WIDTH / image.shape[1])
    small = cv2.resize(image, (_PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _PICTURE_QUALITY])
    return base64.b64encode(data.tobytes()).decode()


@dataclass(frozen=True)
class _Judged:
    """One answer and its errors."""

    name: str
    method: str
    occlusion: float
    size_px: float
    rotation_deg: float
    translation_cm: float
    is_near: bool
    step_s: float


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """A row for each method and object, and for each method over all, with recall at 5cm-5deg by how much is hidden and by size."""
    judged = [item for name, record in records.items() for item in _judged(name, record)]
    methods = list(dict.fromkeys(item.method for item in judged))
    rows: list[dict[str, str | int | float]] = []
    for method in methods:
        own = [_row(method, name, [item for item in judged if item.method == method and item.name == name]) for name in records]
        shares = [key for key in own[0] if key.startswith(("recall", "add"))]
        means = {key: float(np.mean([value for row in own if math.isfinite(value := float(row[key]))] or [math.nan])) for key in shares}
        rows += [*own, {**_row(method, ALL, [item for item in judged if item.method == method]), **means}]
    totals = [row for row in rows if row["object"] == ALL]
    summary = {f"{row['method']}: {key}": float(row[key]) for row in totals for key in ("recall_5cm_5deg", "add_share", "step_p50_s")}
    lines = [Line(method, (), [float(row["recall_5cm_5deg"]) for row in rows if row["method"] == method]) for method in methods]
    figures = {"by_object.png": bar_plot([*records, ALL], lines, "share below 5 cm and 5 degrees", (0.0, 1.0))}
    sheet = clutter_sheet(records)
    return BenchmarkScore(summary, next(iter(summary)), rows, {**figures, **({"queries.png": sheet} if sheet else {})})


def _judged(name: str, record: Record) -> Iterator[_Judged]:
    symmetries = np.array(record["symmetries"], np.float64)
    for query in record["queries"]:
        truth = np.array(query["truth"], np.float64)
        for method, found in query["found"].items():
            pose = None if found["pose"] is None else np.array(found["pose"], np.float64)
            rotation_deg, translation_cm = pose_error(pose, truth, list(symmetries[1:]))
            is_near = found["add_m"] is not None and found["add_m"] < record["add_threshold_m"]
            yield _Judged(name, method, query["occlusion"], query["size_px"], rotation_deg, translation_cm, is_near, found["step_s"])


def _row(method: str, name: str, judged: Sequence[_Judged]) -> dict[str, str | int | float]:
    rotation_deg, translation_cm = (np.array([getattr(item, key) for item in judged]) for key in ("rotation_deg", "translation_cm"))
    recall = pose_recall(rotation_deg, translation_cm)
    hidden, size_px = (np.array([getattr(item, key) for item in judged]) for key in ("occlusion", "size_px"))

    def share(chosen: NDArray[np.bool_]) -> float:
        return float(pose_recall(rotation_deg[chosen], translation_cm[chosen])[-1]) if chosen.any() else math.nan

    bins: dict[str, float] = {}
    for low, high in itertools.pairwise(_OCCLUSION_EDGES):
        chosen = (hidden >= low) & (hidden < high)
        bins[f"recall hidden {low:.0%}-{high:.0%}" if high < 1 else f"recall hidden {low:.0%}+"] = share(chosen)
    for low, high in itertools.pairwise(_SIZE_EDGES_PX):
        # A drawn size may end a pixel beside the range, so the outermost bins are open.
        above, below = low == _SIZE_EDGES_PX[0], high == _SIZE_EDGES_PX[-1]
        bins[f"recall {low:.0f}-{high:.0f} px"] = share(((size_px >= low) | above) & ((size_px < high) | below))
    return {
        "method": method,
        "object": name,
        "recall_1cm_1deg": float(recall[0]),
        "recall_3cm_3deg": float(recall[1]),
        "recall_5cm_5deg": float(recall[2]),
        **bins,
        "add_share": float(np.mean([item.is_near for item in judged])),
        "median_deg": median_error(rotation_deg),
        "median_cm": median_error(translation_cm),
        "num_queries": len(judged),
        "step_p50_s": float(np.median([item.step_s for item in judged])),
    }
