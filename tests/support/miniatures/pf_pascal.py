"""Writes a pair of PF-PASCAL with the lists that others publish for it.

Sources: juhongm999/hpf data/pfpascal.py (.mat files, list for training), the loaders of NCNet (list with points), qq456cvb/3DCorrEnhance
data/test_pairs_pf_*_views.csv (all points of each image).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from tests.support.miniatures.keypoints import PairTruth

CATEGORY, CLASS = "sheep", 17
STEMS = ("2008_001876", "2010_004542")
HEADER = "source_image,target_image,class,XA,YA,XB,YB"


def write_pf_pascal(folder: Path, truth: PairTruth) -> Path:
    """Write PF-dataset-PASCAL with lists for test, different views, same views and training; returns that folder."""
    base = folder / "PF-dataset-PASCAL"
    for stem, image, points, seen, box in zip(STEMS, truth.images, truth.points_px, truth.seen, truth.boxes_px(), strict=True):
        for sub in ("JPEGImages", f"Annotations/{CATEGORY}"):
            (base / sub).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(base / "JPEGImages" / f"{stem}.jpg", quality=98, subsampling=0)
        keypoints = np.where(seen[:, None], points, np.nan)
        scipy.io.savemat(base / "Annotations" / CATEGORY / f"{stem}.mat", {"kps": keypoints, "bbox": box[None]})
    common = [points[truth.common] for points in truth.points_px]
    seen_points = [points[seen] for points, seen in zip(truth.points_px, truth.seen, strict=True)]
    _write_list(base / "test_pairs_pf_pascal.csv", HEADER, [_row(*common)])
    _write_list(base / "test_pairs_pf_same_views.csv", HEADER, [_row(*common)])
    _write_list(base / "test_pairs_pf_different_views.csv", HEADER, [_row(*seen_points)])
    names = [f"PF-dataset-PASCAL/JPEGImages/{stem}.jpg" for stem in STEMS]
    rows = [f"{names[0]},{names[1]},{CLASS},{flip}" for flip in (0, 1)]
    _write_list(base / "trn_pairs_pf_pascal.csv", "source_image,target_image,class,flip", rows)
    return base


def _row(source: NDArray[np.float64], target: NDArray[np.float64]) -> str:
    coordinates = [";".join(f"{value:.12g}" for value in points[:, axis]) for points in (source, target) for axis in (0, 1)]
    names = [f"PF-dataset-PASCAL/JPEGImages/{stem}.jpg" for stem in STEMS]
    return ",".join([*names, str(CLASS), *coordinates])


def _write_list(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")
