"""SIFT keypoints and PnP, the sparse peer of dense features: keypoints of the reference views on the object's surface, matched by a ratio test.

Made to be strong: low contrast threshold, RootSIFT, a ratio test whose second neighbour lies elsewhere on the object (`ops.sift_keypoints`), and two
ways of matching, of which the pose with more inliers is taken: all views in one index, and the views with most matches one by one. The pose is
solved by RANSAC over all matches, as that of dense features is; `pipelines.keypoint_search`, which groups them first, finds more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from perception.core.config import Checked, Range, to_mapping
from perception.core.errors import InputError
from perception.core.types import Frame, NoPose, PoseEstimate, PoseResult, ReferenceView
from perception.geometry import se3
from perception.geometry.camera import unproject
from perception.geometry.pnp import PnpSolution, SolverConfig, solve_pnp
from perception.ops.sift_keypoints import Keypoints, detect_keypoints, match_by_ratio


@dataclass(frozen=True, kw_only=True)
class SiftKeypointsConfig(Checked):
    """SIFT keypoints + PnP."""

    label: str = "SIFT + PnP"
    """Name in tables and plots."""
    contrast_threshold: Annotated[float, Range(0.0, 1.0)] = 0.015
    """Of OpenCV's detector, whose default is 0.04."""
    edge_threshold: Annotated[float, Range(1.0, 100.0)] = 14.0
    """Of OpenCV's detector, whose default is 10."""
    max_keypoints: Annotated[int, Range(0)] = 4_000
    """In one image, those with most contrast; 0: all."""
    max_ratio: Annotated[float, Range(0.1, 1.0)] = 0.85
    """A match is kept when its distance is below this share of that to the next one elsewhere on the object."""
    elsewhere: Annotated[float, Range(0.0, 1.0, "diagonals")] = 0.05
    """How far on the object two keypoints must lie apart to be told from each other."""
    num_single_views: Annotated[int, Range(0, 1000)] = 3
    """So many views with most matches are also tried by themselves."""
    solver: SolverConfig = SolverConfig()


def _detect(image: NDArray[np.uint8], config: SiftKeypointsConfig, mask: NDArray[np.bool_] | None) -> Keypoints:
    return detect_keypoints(image, mask, config.max_keypoints, config.contrast_threshold, config.edge_threshold)


class SiftKeypoints:
    """The method, to be compared with dense features (`pose_methods.PoseMethod`)."""

    def __init__(self, config: SiftKeypointsConfig | None = None) -> None:
        self.config = config or SiftKeypointsConfig()

    @property
    def label(self) -> str:
        """Name in tables and plots."""
        return self.config.label

    def identity(self) -> dict[str, Any]:
        """What its answers depend on."""
        return {"extractor": "sift_keypoints", "features": to_mapping(self.config)}

    def learn(self, name: str, views: Iterable[ReferenceView], source: str = "") -> SiftObject:
        """Keypoints of all views, on the object's surface. Raises InputError when there are none, or a view has no depth."""
        descriptors, points, starts = [], [], [0]
        for view in views:
            frame = view.frame
            if frame.depth_m is None or frame.camera is None:
                raise InputError(f"SIFT keypoints of {source or name}: a reference view has no depth or no camera; both must be known")
            known = np.isfinite(frame.depth_m) & (frame.depth_m > 0)
            usable = known if frame.mask is None else known & frame.mask
            found = _detect(frame.image, self.config, usable)
            cols, rows = np.rint(found.points_px).astype(np.int64).T
            seen = found.take(usable[rows, cols])
            cols, rows = np.rint(seen.points_px).astype(np.int64).T
            in_camera = unproject(seen.points_px, frame.depth_m[rows, cols].astype(np.float64), frame.camera)
            points.append(se3.transform_points(se3.inverse(view.camera_from_object), in_camera))
            descriptors.append(seen.descriptors)
            starts.append(starts[-1] + len(seen.points_px))
        if not starts[-1]:
            raise InputError(f"SIFT keypoints of {source or name}: no keypoint in {len(points)} reference views")
        return SiftObject(name, torch.cat(descriptors), np.concatenate(points), np.array(starts), self.config)


class SiftObject:
    """An object as keypoints know it: descriptors (n, 128) and points (n, 3) in its frame, those of view v at starts[v]:starts[v + 1]."""

    def __init__(
        self, name: str, descriptors: torch.Tensor, points: NDArray[np.float64], starts: NDArray[np.int64], config: SiftKeypointsConfig
    ) -> None:
        self.name, self.descriptors, self.points, self.starts, self.config = name, descriptors, points, starts, config
        self.bounds = np.quantile(points, [0.001, 0.999], axis=0)
        self._apart_m = config.elsewhere * float(np.linalg.norm(self.bounds[1] - self.bounds[0]))

    @property
    def num_points(self) -> int:
        """Keypoints of all views together."""
        return len(self.points)

    def step(self, frame: Frame) -> PoseResult:
        """The pose of the object in one frame with camera."""
        assert frame.camera is not None
        found = _detect(frame.image, self.config, frame.mask)
        tried = [self._matched(found.descriptors, slice(0, self.num_points))]
        tried += self._best_views(found.descriptors)
        best: tuple[PnpSolution, NDArray[np.int64], NDArray[np.int64]] | None = None
        for queries, references in tried:
            solution = solve_pnp(found.points_px[queries], self.points[references], frame.camera, self.config.solver)
            if solution is not None and (best is None or solution.inliers.sum() > best[0].inliers.sum()):
                best = solution, queries, references
        if best is None:
            miss = NoPose(self.name, f"no pose agrees with enough of {len(tried[0][0])} matches", len(tried[0][0]))
            return PoseResult(frame.time_ns, frame.frame_id, (), (miss,))
        solution, queries, references = best
        inliers = solution.inliers
        estimate = PoseEstimate(
            object_name=self.name,
            camera_from_object=solution.camera_from_object,
            covariance=solution.covariance,
            score=float(inliers.mean()),
            num_matches=len(queries),
            num_inliers=int(inliers.sum()),
            reprojection_rms_px=solution.reprojection_rms_px,
            inlier_points_px=found.points_px[queries][inliers].astype(np.float32),
            inlier_points_object=self.points[references][inliers].astype(np.float32),
            bounds_object=self.bounds.astype(np.float32),
        )
        return PoseResult(frame.time_ns, frame.frame_id, (estimate,))

    def _matched(self, queries: torch.Tensor, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of queries and of keypoints among `part` that pass the ratio test."""
        matches = match_by_ratio(queries, self.descriptors[part], self.points[part], self.config.max_ratio, self._apart_m)
        return matches.query_index, matches.reference_index + part.start

    def _best_views(self, queries: torch.Tensor) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Matches of the views that have most."""
        if not self.config.num_single_views:
            return []
        found = [self._matched(queries, slice(int(start), int(stop))) for start, stop in zip(self.starts[:-1], self.starts[1:], strict=True)]
        order = np.argsort([-len(pairs[0]) for pairs in found], kind="stable")
        return [found[index] for index in order[: self.config.num_single_views]]
