"""Writes a pair of SPair-71k, files and fields as read by juhongm999/hpf data/spair.py and mbanani/probe3d evals/datasets/spair.py."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.support.miniatures.keypoints import PairTruth

CATEGORY, CLASS_ID, OTHER_CLASS_ID, BORDER = "chair", 9, 11, 255
STEMS = ("2007_000876", "2009_004542")
PAIR = f"000001-{STEMS[0]}-{STEMS[1]}:{CATEGORY}"
DIFFICULTY = {"viewpoint_variation": 2, "scale_variation": 1, "truncation": 0, "occlusion": 3}


def clicked(truth: PairTruth) -> NDArray[np.int64]:
    """Indices of the common points that lie nearer than 0.45 px to a whole pixel in both images: annotations are whole pixels."""
    points = truth.points_px[:, truth.common]
    near = (np.linalg.norm(points - np.rint(points), axis=2) < 0.45).all(axis=0)
    return truth.common[near]


def write_spair71k(folder: Path, truth: PairTruth) -> Path:
    """Write the set with the one pair; returns its pair annotation."""
    sides = ("src", "trg")
    content: dict = {"pair_id": 1, "filename": PAIR, "category": CATEGORY, "mirror": 0, **DIFFICULTY}
    content["kps_ids"] = [str(index) for index in clicked(truth)]
    for side, stem, image, mask, points, box in zip(sides, STEMS, truth.images, truth.masks, truth.points_px, truth.boxes_px(), strict=True):
        path = folder / "JPEGImages" / CATEGORY / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=98, subsampling=0)
        _write_segmentation(folder / "Segmentation" / CATEGORY / f"{stem}.png", mask)
        content |= {
            f"{side}_imname": f"{stem}.jpg",
            f"{side}_imsize": [image.shape[1], image.shape[0], 3],
            f"{side}_bndbox": box.astype(int).tolist(),
            f"{side}_kps": np.rint(points[clicked(truth)]).astype(int).tolist(),
        }
    annotation = folder / "PairAnnotation" / "test" / f"{PAIR}.json"
    _write_json(annotation, content)
    for layout in ("large", "small"):
        for split in ("trn", "val", "test"):
            path = folder / "Layout" / layout / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{PAIR}\n" if split == "test" else "")
    return annotation


def _write_segmentation(path: Path, mask: NDArray[np.int32]) -> None:
    """Classes by palette index with an undecided border, as PASCAL VOC draws it."""
    ids = np.choose(mask, [0, CLASS_ID, OTHER_CLASS_ID]).astype(np.uint8)
    ids[cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = BORDER
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids, "P")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    picture.save(path)


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
