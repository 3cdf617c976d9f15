"""One-shot object pose on YCB-Video or any BOP set: average recall of VSD, MSSD and MSPD over the list of targets (Hodan et al., ECCVW 2020).

Every object is learnt from renders of its mesh (MEF: 96 views spread over the sphere, You et al., ICLR 2025, section 3.2); all that an image is said
to hold is looked for in it. `where` says whether in the whole image or in the annotated box of each object, as after a perfect detector: MEF's paper
names no detector, and the released program has no such evaluation. One pose is given for each object and image, so that of several instances of one
object at most one can be found. Errors are measured as `perception.evaluation.metrics` has them, when the image is at hand; recall is made from the
file. `bop_results.csv` is in the format of bop.felk.cvut.cz.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import InputError
from perception.core.types import Frame, PoseEstimate
from perception.evaluation.metrics.bop_errors import TAUS, mspd_error_px, mssd_error_m, visible_surface_discrepancy
from perception.evaluation.metrics.bop_recall import ObjectErrors, average_recall, most_visible
from perception.evaluation.provenance import Header
from perception.pipelines.object_database import ObjectDatabase
from perception.pipelines.onboarding import OnboardingConfig, build_database
from perception.pipelines.one_shot_pose import OneShotPose, OneShotPoseConfig
from perception.rendering.reference_sources import ReferenceConfig, open_references
from perception_training.benchmarks.bop_objects import ScoredObject, load_scored_object, read_target_counts
from perception_training.benchmarks.image_features import BenchmarkFeatures
from perception_training.benchmarks.plots import Line, bar_plot
from perception_training.benchmarks.records import Record, floats
from perception_training.benchmarks.running import Benchmark, BenchmarkScore, dataset_header, evenly_chosen
from perception_training.data.layouts.bop_objects import MILLIMETRE
from perception_training.data.readers.bop import Bop
from perception_training.data.sample import ObjectTrack, Sample
from perception_training.data.sequences import FrameSequence

RESULTS_CSV = "bop_results.csv"
_KEPT_SEQUENCES = 2


@dataclass(frozen=True, kw_only=True)
class BopPoseConfig(Checked):
    """How objects are learnt and looked for."""

    where: Literal["image", "box"] = "image"
    """Look in the whole image, or in the annotated box of the visible part, as after a perfect detector."""
    max_images: Annotated[int, Range(0)] = 0
    """So many images, evenly spaced over the targets; 0: all."""
    visibility_tolerance_m: Annotated[float, Range(0.0, 1.0, "m")] = 0.015
    """Of VSD (ITODD: 0.005)."""
    reference: ReferenceConfig = ReferenceConfig(num_viewpoints=96, mesh_scale=MILLIMETRE)
    database: OnboardingConfig = OnboardingConfig()
    pose: OneShotPoseConfig = OneShotPoseConfig(temporal_prior=False, min_score=0.0)
    """How the pose is found. `features` and `databases` in it are not looked at."""


class BopPose(Benchmark):
    """Units are images, `<split>/<scene>/<image>`. Object databases are kept in `databases`."""

    name: ClassVar[str] = "bop"

    def __init__(self, dataset: Bop, features: BenchmarkFeatures, databases: Path, config: BopPoseConfig | None = None) -> None:
        self.dataset, self.features, self.config = dataset, features, config or BopPoseConfig()
        self.databases = databases
        self.targets = read_target_counts(dataset.root)
        self.sequence = lru_cache(maxsize=_KEPT_SEQUENCES)(dataset.open_sequence)
        self.scored_object = lru_cache(maxsize=None)(lambda object_id: load_scored_object(dataset.root, object_id))
        self.pipeline = lru_cache(maxsize=None)(self._pipeline)

    @cached_property
    def header(self) -> Header:
        return dataset_header(self.name, self.features, self.dataset, self.config)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Images with something to find."""
        found = [f"{name}/{image}" for name in self.dataset.sequence_names for image in self._images(self.dataset.open_sequence(name))]
        return evenly_chosen(found, self.config.max_images)

    def _images(self, sequence: FrameSequence) -> Iterator[str]:
        scene_id = int(sequence.name.rpartition("/")[2])
        for image in sequence.frame_names:
            if self.targets is None or (scene_id, int(image)) in self.targets:
                yield image

    def predict(self, unit: str) -> Record:
        name, _, image = unit.rpartition("/")
        sequence = self.sequence(name)
        sample = sequence.load([sequence.frame_names.index(image)])
        if sample.cameras is None or sample.cameras[0] is None or sample.depth_m is None:
            raise InputError(f"{sample.place(0)}: no intrinsics or no depth; both must be known for the errors of this benchmark")
        counts = None if self.targets is None else self.targets[int(name.rpartition("/")[2]), int(image)]
        found = [self._object(sample, object_id, counts) for object_id in sorted(counts if counts is not None else _annotated(sample))]
        return {"objects": found, "width": sample.images[0].shape[1], "time_s": sum(item["time_s"] for item in found)}

    def _object(self, sample: Sample, object_id: int, counts: Mapping[int, int] | None) -> dict[str, Any]:
        """What is said of one object in one image, and its errors against all its true poses."""
        tracks = [track for track in sample.objects if _object_id(track) == object_id and np.isfinite(track.camera_from_object[0]).all()]
        if not tracks:
            raise InputError(f"{sample.place(0)}: object {object_id} is a target but has no true pose")
        visible = np.array([1.0 if track.visible_share is None else float(track.visible_share[0]) for track in tracks])
        targets = most_visible(visible, counts[object_id] if counts is not None else len(tracks))
        started = time.perf_counter()
        estimate = self._estimate(sample, object_id, tracks[int(np.argmax(visible))])
        elapsed_s = time.perf_counter() - started
        scored_object = self.scored_object(object_id)
        row: dict[str, Any] = {"object_id": object_id, "targets": targets, "diameter_m": scored_object.diameter_m, "time_s": elapsed_s}
        if estimate is None:
            return {**row, "score": None, "camera_from_object": None, "vsd": [], "mssd_m": [], "mspd_px": []}
        pose = estimate.camera_from_object
        errors = [self._errors(sample, scored_object, pose, track.camera_from_object[0]) for track in tracks]
        vsd, mssd, mspd = (np.array(values) for values in zip(*errors, strict=True))
        return {**row, "score": estimate.score, "camera_from_object": pose, "vsd": vsd[None], "mssd_m": mssd[None], "mspd_px": mspd[None]}

    def _errors(
        self, sample: Sample, item: ScoredObject, pose: NDArray[np.float64], true_pose: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], float, float]:
        assert sample.cameras is not None
        assert sample.depth_m is not None
        camera = sample.cameras[0]
        assert camera is not None
        depths = item.depth(camera, pose), item.depth(camera, true_pose), sample.depth_m[0]
        vsd = visible_surface_discrepancy(*depths, camera, item.diameter_m, self.config.visibility_tolerance_m)
        return vsd, mssd_error_m(pose, true_pose, item.points, item.symmetries), mspd_error_px(pose, true_pose, item.points, camera, item.symmetries)

    def _estimate(self, sample: Sample, object_id: int, track: ObjectTrack) -> PoseEstimate | None:
        assert sample.cameras is not None
        image = sample.images[0]
        mask = None
        if self.config.where == "box":
            if track.boxes_px is None:
                raise InputError(f"{sample.place(0)}: no boxes are annotated (scene_gt_info.json); needed for where = box")
            if np.isnan(track.boxes_px[0]).any():
                return None  # nothing of the object is seen, and a perfect detector says so
            x0, y0, x1, y1 = np.clip(track.boxes_px[0], 0, (*image.shape[1::-1], *image.shape[1::-1])).astype(int)
            mask = np.zeros(image.shape[:2], np.bool_)
            mask[y0 : y1 + 1, x0 : x1 + 1] = True
        result = self.pipeline(object_id).step(Frame(image, 1, sample.cameras[0], mask=mask))
        return result.estimates[0] if result.estimates else None

    def _pipeline(self, object_id: int) -> OneShotPose:
        """A pipeline that knows this object, which is learnt now unless its database lies there."""
        pipeline = OneShotPose(self.config.pose, self.features)
        config = self.config
        made_from = {"features": self.features.identity(), "reference": to_mapping(config.reference), "database": to_mapping(config.database)}
        mesh = self.dataset.root / self.dataset.options.models / f"obj_{object_id:06d}.ply"
        key = hashlib.sha256(json.dumps([made_from, str(mesh.resolve())], sort_keys=True).encode()).hexdigest()[:12]
        path = self.databases / f"obj_{object_id:06d}-{key}.safetensors"
        if not path.is_file():
            references = open_references(str(mesh), config.reference)
            build_database(f"obj_{object_id:06d}", references, self.features, config.database, source=str(mesh)).save(path)
        pipeline.add_object(ObjectDatabase.load(path))
        return pipeline


def _object_id(track: ObjectTrack) -> int:
    return int(track.name.partition("#")[0].removeprefix("obj_"))


def _annotated(sample: Sample) -> set[int]:
    return {_object_id(track) for track in sample.objects if np.isfinite(track.camera_from_object[0]).all()}


def score(records: Mapping[str, Record]) -> BenchmarkScore:
    """Average recall over all targets, and for each object."""
    ids = sorted({item["object_id"] for record in records.values() for item in record["objects"]})
    overall = average_recall(_object_errors(records))
    rows: list[dict[str, str | int | float]] = []
    for object_id in ids:
        part = average_recall(_object_errors(records, object_id))
        figures = {"ar": part.mean, "ar_vsd": part.vsd, "ar_mssd": part.mssd, "ar_mspd": part.mspd}
        rows.append({"object": f"obj_{object_id:06d}", "num_targets": part.num_targets, **figures})
    times_s = np.array([record["time_s"] for record in records.values()])
    summary = {"ar": overall.mean, "ar_vsd": overall.vsd, "ar_mssd": overall.mssd, "ar_mspd": overall.mspd}
    summary |= {"num_targets": overall.num_targets, "num_images": len(records), "image_p50_s": float(np.median(times_s))}
    series = [Line(name, (), [float(row[key]) for row in rows]) for name, key in (("VSD", "ar_vsd"), ("MSSD", "ar_mssd"), ("MSPD", "ar_mspd"))]
    picture = bar_plot([str(row["object"]).removeprefix("obj_").lstrip("0") for row in rows], series, "average recall", (0.0, 1.0))
    return BenchmarkScore(summary, "ar", rows, {"by_object.png": picture, RESULTS_CSV: _results(records)})


def _object_errors(records: Mapping[str, Record], only: int | None = None) -> Iterator[ObjectErrors]:
    for record in records.values():
        for item in record["objects"]:
            if only is not None and item["object_id"] != only:
                continue
            targets = np.array(item["targets"], np.bool_)
            found = item["score"] is not None
            shape = (int(found), len(targets))
            yield ObjectErrors(
                scores=np.array([item["score"]] if found else [], np.float64),
                targets=targets,
                vsd=floats(item["vsd"]).reshape(*shape, len(TAUS)),
                mssd_m=floats(item["mssd_m"]).reshape(shape),
                mspd_px=floats(item["mspd_px"]).reshape(shape),
                diameter_m=item["diameter_m"],
                image_width=record["width"],
            )


def _results(records: Mapping[str, Record]) -> bytes:
    """The poses in the format of the BOP challenge: millimetres, rotation row by row, time of the whole image in seconds."""
    lines = ["scene_id,im_id,obj_id,score,R,t,time"]
    for unit, record in records.items():
        _, scene, image = unit.rsplit("/", 2)
        for item in record["objects"]:
            if item["camera_from_object"] is None:
                continue
            pose = np.array(item["camera_from_object"])
            rotation = " ".join(f"{value:.8f}" for value in pose[:3, :3].ravel())
            translation = " ".join(f"{value:.6f}" for value in pose[:3, 3] / MILLIMETRE)
            lines.append(f"{int(scene)},{int(image)},{item['object_id']},{item['score']:.6f},{rotation},{translation},{record['time_s']:.6f}")
    return ("\n".join(lines) + "\n").encode()
