"""SPair-71k (Min et al., 2019): pairs of photographs of the same category with common keypoints.

Layout as distributed (http://cvlab.postech.ac.kr/research/SPair-71k), fields checked against the loaders of juhongm999/hpf (data/spair.py) and
mbanani/probe3d (evals/datasets/spair.py, which also shows what Segmentation/ holds)::

    Layout/{large,small}/{trn,val,test}.txt                 one pair a line: 000001-<source>-<target>:<category>
    PairAnnotation/{trn,val,test}/<pair>.json               src_/trg_imname, _imsize (width, height, channels), _bndbox (x0, y0, x1, y1), _kps,
                                                            kps_ids, category, viewpoint_variation 0-2, scale_variation 0-2,
                                                            truncation and occlusion 0-3
    ImageAnnotation/<category>/<image>.json, JPEGImages/<category>/<image>.jpg, Segmentation/<category>/<image>.png   palette ids of PASCAL VOC

Coordinates are handed on as stored, in whole pixels; whether they count from 0 or, like PASCAL VOC, from 1 is stated nowhere, and every published
evaluation takes them as from 0. Keypoints are named by their number within the category, as in `kps_ids`; the set has no names of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from perception.core.config import Checked
from perception.core.errors import InputError, unknown_name
from perception_training.data.layouts.annotation_files import read_lines
from perception_training.data.layouts.json_entries import entry, numbers, read_object
from perception_training.data.layouts.keypoint_pairs import KeypointPair, keypoint_pair_sequence
from perception_training.data.sequences import Dataset, RecordedSequence

CLASS_IDS = {
    **{"aeroplane": 1, "bicycle": 2, "bird": 3, "boat": 4, "bottle": 5, "bus": 6, "car": 7, "cat": 8, "chair": 9, "cow": 10},
    **{"dog": 12, "horse": 13, "motorbike": 14, "person": 15, "pottedplant": 16, "sheep": 17, "train": 19, "tvmonitor": 20},
}
"""Values in Segmentation/: the classes of PASCAL VOC, of which SPair-71k has 18."""

DIFFICULTIES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")


@dataclass(frozen=True, kw_only=True)
class SpairOptions(Checked):
    """Which pairs of SPair-71k."""

    split: Literal["trn", "val", "test"] = "test"
    """Part of the set."""
    layout: Literal["large", "small"] = "large"
    """Full list of pairs (70 958) or the small one."""
    category: str = "all"
    """Pairs of one category only, such as cat."""
    viewpoint: Literal["all", "0", "1", "2"] = "all"
    """Pairs with this difference of viewpoint only (0 easy, 2 hard); opening the set then reads the annotation of every pair."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.category != "all" and self.category not in CLASS_IDS:
            raise unknown_name("SpairOptions.category", self.category, ("all", *CLASS_IDS))


class Spair71k(Dataset):
    """Pairs of images of one category with common keypoints (SPair-71k).

    One sequence of two frames for each pair; attributes: the four difficulties and whether the pair is mirrored, as the annotation has them.
    """

    name = "spair71k"
    Options = SpairOptions
    options: SpairOptions

    def _list_sequences(self) -> tuple[str, ...]:
        path = self.root / "Layout" / self.options.layout / f"{self.options.split}.txt"
        names = read_lines(path)
        if not names:
            raise InputError(f"list of pairs {path}: is empty; must name at least one pair")
        for number, name in enumerate(names, 1):
            if name.count("-") != 2 or name.rpartition(":")[2] not in CLASS_IDS:
                raise InputError(f"list of pairs {path}: line {number} is {name!r}; must read <number>-<source>-<target>:<category>")
        if self.options.category != "all":
            names = [name for name in names if name.endswith(f":{self.options.category}")]
        if self.options.viewpoint != "all":
            names = [name for name in names if str(self._read_pair(name).attributes["viewpoint_variation"]) == self.options.viewpoint]
        return tuple(sorted(names))

    def open_sequence(self, name: str) -> RecordedSequence:
        return keypoint_pair_sequence(self.name, name, self._read_pair(name))

    def _read_pair(self, name: str) -> KeypointPair:
        path = self.root / "PairAnnotation" / self.options.split / f"{name}.json"
        content = read_object(path)
        place = f"annotation {path}"
        category = entry(content, "category", place, str)
        if category not in CLASS_IDS:
            raise InputError(f"{place}: category = {category!r}: must be one of {', '.join(CLASS_IDS)}")
        points = [numbers(content, f"{side}_kps", place, (None, 2)) for side in ("src", "trg")]
        names = tuple(str(item) for item in entry(content, "kps_ids", place, list))
        if len(points[0]) != len(points[1]) or len(names) != len(points[0]):
            raise InputError(f"{place}: {len(points[0])} src_kps, {len(points[1])} trg_kps and {len(names)} kps_ids: must be as many")
        images = [Path(entry(content, f"{side}_imname", place, str)).name for side in ("src", "trg")]
        sizes = [numbers(content, f"{side}_imsize", place, (3,)) for side in ("src", "trg")]
        folder = self.root / "Segmentation" / category
        return KeypointPair(
            annotation=path,
            images=(self.root / "JPEGImages" / category / images[0], self.root / "JPEGImages" / category / images[1]),
            points_px=np.stack(points),
            category=category,
            keypoint_names=names,
            boxes_px=np.stack([numbers(content, f"{side}_bndbox", place, (4,)) for side in ("src", "trg")]),
            class_id=CLASS_IDS[category],
            class_maps=tuple(folder / f"{Path(image).stem}.png" for image in images) if folder.is_dir() else (),
            sizes=tuple((int(size[0]), int(size[1])) for size in sizes),
            attributes={key: entry(content, key, place, int) for key in DIFFICULTIES} | {"mirror": int(content.get("mirror", 0))},
        )
