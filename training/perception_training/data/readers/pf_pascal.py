"""PF-PASCAL (Ham et al., 2017): pairs of photographs of the same category with common keypoints.

Layout as distributed (https://www.di.ens.fr/willow/research/proposalflow), with the lists of pairs that others publish for it::

    PF-dataset-PASCAL/JPEGImages/<image>.jpg
    PF-dataset-PASCAL/Annotations/<category>/<image>.mat    kps (K, 2), NaN where the keypoint is not seen; bbox (1, 4) as x0, y0, x1, y1
    PF-dataset-PASCAL/{trn,val,test}_pairs_pf_pascal.csv    source_image,target_image,class,XA,YA,XB,YB (points joined by ;), class from 1;
                                                            lists for training have `flip` (0 or 1, both images) in place of points
    PF-dataset-PASCAL/test_pairs_pf_{different,same}_views.csv    299 pairs each, from qq456cvb/3DCorrEnhance (folder data/)

Checked against juhongm999/hpf (data/pfpascal.py), the loaders of NCNet and its kin, PruneTruong/DenseMatching (names of the lists) and
qq456cvb/3DCorrEnhance (evaluate.py, load_pascal_data, which pads to 20 slots with -1). Coordinates are handed on as stored, taken as from 0.

**Different views.** Every row of these lists has all keypoints that are annotated in each image, not the common ones: in 131 of the 299 pairs of
different views the two counts differ. The published evaluation takes the i-th point of one image for the i-th of the other up to the shorter count;
`keypoints: list` does the same, so that its figures can be compared. `keypoints: annotations` takes the common ones by their row in the .mat files
and gives true correspondences. In the list of same views both agree in number.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.io
from numpy.typing import NDArray

from perception.core.config import Checked
from perception.core.errors import InputError
from perception_training.data.layouts.annotation_files import read_text
from perception_training.data.layouts.keypoint_pairs import KeypointPair, keypoint_pair_sequence
from perception_training.data.sequences import Dataset, RecordedSequence

FOLDER = "PF-dataset-PASCAL"
CATEGORIES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""`class` of the lists counts these from 1."""

_SPLIT_FILES = {
    "trn": ("trn_pairs_pf_pascal.csv", "train_pairs_pf_pascal.csv", "trn_pairs.csv", "train_pairs.csv"),
    "val": ("val_pairs_pf_pascal.csv", "val_pairs.csv"),
    "test": ("test_pairs_pf_pascal.csv", "test_pairs.csv"),
}
_POINTS = ("XA", "YA", "XB", "YB")


@dataclass(frozen=True, kw_only=True)
class PfPascalOptions(Checked):
    """Which pairs of PF-PASCAL and where their keypoints come from."""

    split: Literal["trn", "val", "test"] = "test"
    """Part of the set; the lists by view are of test only."""
    view: Literal["any", "different", "same"] = "any"
    """any: the usual list of the split; different, same: the lists of pairs by view."""
    keypoints: Literal["list", "annotations"] = "list"
    """list: points of the list, where it has any; annotations: common keypoints of the .mat files, numbered and exact also for different views."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.view != "any" and self.split != "test":
            raise InputError(f"PfPascalOptions.split = {self.split!r}: must be test for view = {self.view}")


class PfPascal(Dataset):
    """Pairs of PASCAL images with common keypoints (PF-PASCAL), by same or different view.

    One sequence of two frames for each row of the list, named by its number, source, target and category. The object's boxes are those of the
    .mat files, where these lie beside the images. `root` is PF-dataset-PASCAL or the folder that holds it.
    """

    name = "pf_pascal"
    Options = PfPascalOptions
    options: PfPascalOptions

    def _list_sequences(self) -> tuple[str, ...]:
        self._folder = self.root / FOLDER if (self.root / FOLDER).is_dir() else self.root
        self._list = self._find_list()
        self._rows = _read_rows(self._list)
        return tuple(self._rows)

    def _find_list(self) -> Path:
        view = self.options.view
        names = _SPLIT_FILES[self.options.split] if view == "any" else (f"test_pairs_pf_{view}_views.csv",)
        found = next((self._folder / name for name in names if (self._folder / name).is_file()), None)
        if found is None:
            raise InputError(f"list of pairs {self._folder / names[0]}: no such file{' (nor ' + ', '.join(names[1:]) + ')' if names[1:] else ''}")
        return found

    def open_sequence(self, name: str) -> RecordedSequence:
        if name not in self._rows:
            raise InputError(f"list of pairs {self._list}: has no pair {name}")
        row = self._rows[name]
        place = f"list of pairs {self._list}: pair {name}"
        category = name.rpartition(":")[2]
        stems = [Path(row[f"{side}_image"]).stem for side in ("source", "target")]
        files = [self._folder / "Annotations" / category / f"{stem}.mat" for stem in stems]
        annotated = [_read_annotation(file) for file in files] if (self._folder / "Annotations").is_dir() else None
        numbers: tuple[str, ...] = ()
        if self.options.keypoints == "list" and "XA" in row:
            points = _listed_points(row, place)
        elif annotated is None:
            raise InputError(f"annotation {files[0]}: no such file, and the list has no keypoints to use instead")
        else:
            points, numbers = _common_points((annotated[0][0], annotated[1][0]), (files[0], files[1]))
        pair = KeypointPair(
            annotation=self._list,
            images=(self._folder / "JPEGImages" / f"{stems[0]}.jpg", self._folder / "JPEGImages" / f"{stems[1]}.jpg"),
            points_px=points,
            category=category,
            keypoint_names=numbers,
            boxes_px=None if annotated is None else np.stack([boxes for _, boxes in annotated]),
            mirrored=row.get("flip", "0") == "1",
        )
        return keypoint_pair_sequence(self.name, name, pair)


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    """Rows of the list by the name of their sequence."""
    reader = csv.DictReader(read_text(path).splitlines())
    columns = reader.fieldnames or []
    missing = [column for column in ("source_image", "target_image", "class") if column not in columns]
    if missing:
        raise InputError(f"list of pairs {path}: has no column {missing[0]!r}; its columns are {', '.join(columns) or 'none'}")
    rows = {}
    for number, row in enumerate(reader):
        if None in row or None in row.values():
            raise InputError(f"list of pairs {path}: row {number} has not {len(columns)} columns")
        index = row["class"].partition(".")[0]
        if not index.isdigit() or not 1 <= int(index) <= len(CATEGORIES):
            raise InputError(f"list of pairs {path}: row {number} has class {row['class']!r}: must be a number in [1, {len(CATEGORIES)}]")
        stems = "-".join(Path(row[column]).stem for column in ("source_image", "target_image"))
        rows[f"{number:04d}-{stems}:{CATEGORIES[int(index) - 1]}"] = row
    if not rows:
        raise InputError(f"list of pairs {path}: is empty; must name at least one pair")
    return rows


def _listed_points(row: dict[str, str], place: str) -> NDArray[np.float64]:
    """(2, N, 2) points of a row, cut to the shorter of both counts. Points marked -1 pad a row and are left out."""
    sides = []
    try:
        columns = [np.array([float(text) for text in row[column].split(";")]) for column in _POINTS]
    except (KeyError, ValueError) as error:
        raise InputError(f"{place}: XA, YA, XB and YB must be numbers joined by ; ({error})") from error
    for x, y in (columns[:2], columns[2:]):
        if len(x) != len(y):
            raise InputError(f"{place}: {len(x)} values of x and {len(y)} of y: must be as many")
        points = np.stack([x, y], axis=1)
        sides.append(points[~(points == -1).all(axis=1)])
    count = min(map(len, sides))
    points_px = np.stack([side[:count] for side in sides])
    if not np.isfinite(points_px).all():
        raise InputError(f"{place}: holds NaN or infinite coordinates")
    return points_px


def _common_points(sides: tuple[NDArray, NDArray], files: tuple[Path, Path]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(2, N, 2) keypoints that both images show, and their numbers."""
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"annotations {files[0]} and {files[1]} have {len(sides[0])} and {len(sides[1])} keypoints: must be as many")
    both = np.stack(sides)
    rows = np.flatnonzero(np.isfinite(both).all(axis=(0, 2)))
    if not len(rows):
        raise InputError(f"annotations {files[0]} and {files[1]}: no keypoint is seen in both images")
    return both[:, rows], tuple(str(row) for row in rows)


def _read_annotation(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(K, 2) keypoints, NaN where not seen, and the box (4,) of one image."""
    if not path.is_file():
        raise InputError(f"annotation {path}: no such file")
    try:
        content = scipy.io.loadmat(path, variable_names=("kps", "bbox"))
        keypoints, box = np.asarray(content["kps"], np.float64), np.asarray(content["bbox"], np.float64).reshape(-1)
    except Exception as error:  # SciPy raises many kinds for damaged files
        raise InputError(f"annotation {path}: is no MATLAB file with kps and bbox ({type(error).__name__}: {error})") from error
    if keypoints.ndim != 2 or keypoints.shape[1] != 2 or box.shape != (4,) or not np.isfinite(box).all():
        raise InputError(f"annotation {path}: kps has shape {keypoints.shape} and bbox {box.tolist()}: must be (keypoints, 2) and four numbers")
    return keypoints, box
