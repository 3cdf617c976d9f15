"""How far the recorded poses of a posed RGB-D clip can be trusted, and how far the estimates are off when depth is the judge.

Takes the run folder of `perception demo --frames DIR`. Every frame that was localised is compared with the reference frames by depth alone:
share of its points within 3 cm of the references' surface, at the recorded pose and at the estimated one; then both are refined by
point-to-plane ICP (Open3D) and the refined pose that fits better serves as truth.

    .venv/bin/python benchmarks/recorded_poses.py DIR RUN_FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from perception.core.types import Frame
from perception.evaluation.predictions import read_predictions
from perception.evaluation.run_folder import PREDICTIONS_FILE
from perception.geometry import se3, so3
from perception.geometry.camera import depth_to_points
from perception.io.posed_frames import PosedFrameFolder
from perception.rendering.raycast import open3d

NEAR_M = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--reference-every", type=int, default=5)
    parser.add_argument("--check-every", type=int, default=5, help="compare every n-th localised frame (ICP takes seconds for each)")
    arguments = parser.parse_args()
    frames = list(PosedFrameFolder(arguments.frames))
    half = len(frames) // 2
    model = cloud([(frame.frame, frame.world_from_camera) for frame in frames[: half : arguments.reference_every]])
    estimates = [item for item in read_predictions(arguments.run_folder / PREDICTIONS_FILE)[1] if item.camera_from_object is not None]
    by_time = {frame.frame.time_ns: frame for frame in frames[half:]}
    rows = [
        row(model, by_time[item.time_ns], se3.inverse(item.camera_from_object))
        for item in estimates[:: arguments.check_every]
        if item.time_ns in by_time
    ]
    table = np.array(rows)
    print(f"{len(estimates)} of {len(by_time)} frames localised, {len(rows)} of them compared; medians, and share under 5 cm and 5 deg")
    for name, columns in {
        "estimate against the recorded pose": (0, 1),
        "recorded pose against depth (ICP)": (2, 3),
        "estimate against depth (ICP)": (4, 5),
    }.items():
        deg, cm = table[:, columns[0]], table[:, columns[1]]
        print(f"{name:36s} {np.median(deg):6.2f} deg {np.median(cm):6.2f} cm   {np.mean((deg < 5) & (cm < 5)):.2f}")
    print(f"points within {100 * NEAR_M:.0f} cm of the references: recorded pose {np.median(table[:, 6]):.2f}, estimate {np.median(table[:, 7]):.2f}")


def cloud(views: list[tuple[Frame, np.ndarray]]):
    """Point cloud in the world of frames with depth."""
    geometry = open3d().geometry
    points = []
    for frame, world_from_camera in views:
        camera_points = depth_to_points(frame.depth_m, frame.camera).reshape(-1, 3)
        points.append(se3.transform_points(world_from_camera, camera_points[np.isfinite(camera_points[:, 2]) & (camera_points[:, 2] < 4)]))
    result = geometry.PointCloud(open3d().utility.Vector3dVector(np.concatenate(points).astype(np.float64))).voxel_down_sample(0.015)
    result.estimate_normals(geometry.KDTreeSearchParamHybrid(radius=0.05, max_nn=30))
    return result


def row(model, frame, estimated: np.ndarray) -> list[float]:
    """Errors (deg, cm) of estimate against record, record against depth, estimate against depth; shares near at record and at estimate."""
    points = cloud([(frame.frame, np.eye(4))])
    refined = [refine(model, points, pose) for pose in (frame.world_from_camera, estimated)]
    truth = max(refined, key=lambda item: item[1])[0]
    errors = [error(estimated, frame.world_from_camera), error(frame.world_from_camera, truth), error(estimated, truth)]
    return [*np.concatenate(errors), *(near(model, points, pose) for pose in (frame.world_from_camera, estimated))]


def refine(model, points, world_from_camera: np.ndarray) -> tuple[np.ndarray, float]:
    """The pose after ICP with shrinking radius, and the share of points near the model there."""
    registration = open3d().pipelines.registration
    pose = world_from_camera
    for radius_m in (0.15, 0.08, 0.04):
        method, limits = registration.TransformationEstimationPointToPlane(), registration.ICPConvergenceCriteria(max_iteration=60)
        pose = registration.registration_icp(points, model, radius_m, pose, method, limits).transformation
    return pose, near(model, points, pose)


def near(model, points, world_from_camera: np.ndarray) -> float:
    """Share of the points within NEAR_M of the model."""
    return open3d().pipelines.registration.evaluate_registration(points, model, NEAR_M, world_from_camera).fitness


def error(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Angle in degrees and distance of the camera centres in centimetres."""
    return float(np.degrees(so3.rotation_angle(a[:3, :3].T @ b[:3, :3]))), float(100 * np.linalg.norm(a[:3, 3] - b[:3, 3]))


if __name__ == "__main__":
    main()
