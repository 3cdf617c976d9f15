"""Writes the scene as a pickle of TAP-Vid, format of google-deepmind/tapnet tapvid/README.md: points in [0, 1] from corner to corner of the image."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from tests.support.miniatures.scene import MiniatureScene

VIDEO = "bike-packing"


def tapvid_video(scene: MiniatureScene) -> dict[str, np.ndarray]:
    """One video of the pickle; its last point is never seen."""
    height, width = scene.images[0].shape[:2]
    points = (scene.points_px.transpose(1, 0, 2) + 0.5) / (width, height)
    never = np.zeros((1, len(scene), 2))
    occluded = ~scene.visible.T
    return {
        "video": np.stack(scene.images),
        "points": np.concatenate([points, never]).astype(np.float32),
        "occluded": np.concatenate([occluded, np.ones((1, len(scene)), bool)]),
    }


def write_tapvid_davis(folder: Path, scene: MiniatureScene, protocol: int = 4) -> Path:
    """Write `tapvid_davis.pkl`; returns it."""
    path = folder / "tapvid_davis.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({VIDEO: tapvid_video(scene), "camel": tapvid_video(scene)}, protocol))
    return path
