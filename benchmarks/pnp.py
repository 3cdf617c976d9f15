"""PnP with outliers against cv2.solvePnPRansac (EPnP, 10,000 iterations, 8 px, as published with OnePose++ and MEF), in one run.

    .venv/bin/python benchmarks/pnp.py [--trials 30 --correspondences 3000 --noise-px 1]

Success: under 2 degrees and 5 mm. An object of 20 cm at 0.6 m, outliers anywhere in the image.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the analytic scenes lie with the tests

from tests.support.scenes import CAMERAS, Correspondences, correspondences, pose_error

from perception.core.types import Camera
from perception.geometry import se3, so3
from perception.geometry.pnp import SolverConfig, solve_pnp


def opencv_as_published(scene: Correspondences, camera: Camera) -> np.ndarray | None:
    found, rotation_vector, translation, _ = cv2.solvePnPRansac(
        1000 * scene.points_object, scene.points_px, camera.matrix, None, iterationsCount=10_000, reprojectionError=8.0, flags=cv2.SOLVEPNP_EPNP
    )
    return se3.from_rotation_translation(so3.exp(rotation_vector[:, 0]), translation[:, 0] / 1000) if found else None


def ours(scene: Correspondences, camera: Camera) -> np.ndarray | None:
    solution = solve_pnp(scene.points_px, scene.points_object, camera, SolverConfig())
    return None if solution is None else solution.camera_from_object


def summary(records: list[tuple[float, float, float]]) -> tuple[float, float, float, float]:
    """Median ms, success in %, median rotation error in degrees and translation error in mm."""
    elapsed, rotation_deg, translation_m = np.array(records).T
    success = (rotation_deg < 2) & (translation_m < 0.005)
    return 1e3 * np.median(elapsed), 100 * success.mean(), np.median(rotation_deg), 1e3 * np.median(translation_m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--correspondences", type=int, default=3000)
    parser.add_argument("--inlier-shares", type=float, nargs="+", default=[0.3, 0.1])
    parser.add_argument("--noise-px", type=float, default=1.0)
    arguments = parser.parse_args()
    methods = {"cv2 EPnP": opencv_as_published, "solve_pnp": ours}
    camera = CAMERAS["none"]
    for inlier_share in arguments.inlier_shares:
        records: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
        for trial in range(arguments.trials):
            scene = correspondences(camera, arguments.correspondences, inlier_share, arguments.noise_px, seed=trial)
            for name, method in methods.items():
                start = time.perf_counter()
                pose = method(scene, camera)
                elapsed = time.perf_counter() - start
                records[name].append((elapsed, *((np.inf, np.inf) if pose is None else pose_error(pose, scene.camera_from_object))))
        figures = {name: summary(rows) for name, rows in records.items()}
        for name, (median_ms, success, rotation_deg, translation_mm) in figures.items():
            accuracy = f"success {success:5.1f} % · {rotation_deg:.3f} deg · {translation_mm:.3f} mm"
            print(f"{100 * inlier_share:.0f} % inliers · {name:10s} {median_ms:8.1f} ms · {accuracy}")
        print(f"{100 * inlier_share:.0f} % inliers · ratio {figures['cv2 EPnP'][0] / figures['solve_pnp'][0]:.1f}x", flush=True)


if __name__ == "__main__":
    main()
