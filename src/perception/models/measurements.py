"""How fast each backend was on this machine, kept in the user's cache; `backend: auto` takes the fastest that gave the right answer.

One file for each machine and set of library versions (`Machine.key`): after an upgrade or on other hardware nothing is taken for granted.
Rows of one model and size always come from one run, because only these can be compared.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from perception.backends.machine import Machine, this_machine
from perception.core.errors import ConfigError, WeightsError
from perception.models.weights import cache_dir

MIN_COSINE = 0.999
"""A way to run a network is taken by itself only when every cell's descriptor is that close to float32."""
_LARGEST_AREA_RATIO = 4.0
"""Sizes further apart say nothing about each other."""


@dataclass(frozen=True)
class Measurement:
    """One row of `perception bench`.

    model: name of the extractor with weights · stride_px: of its descriptors · device: cpu or cuda · median_ms, p95_ms: of the whole batch ·
    processor_ms: median of what all threads together computed for a batch, which other processes disturb less than the time of the clock ·
    frames_per_s: images, from the median · peak_memory_mib: the most that was taken while it was opened and run, beyond what was there before; NaN
    where not known · flops: operations of the float32 network in each second of the median (a multiplication and an addition are two) ·
    matrix_share: of the best matrix product of that number type in this run (of bfloat16 for int8) · bytes_per_s: bytes of inputs, outputs and
    weights of all products per second · memory_share: of the best copy · min_cosine, mean_cosine, max_error: against float32 on torch, over cells.
    """

    model: str
    stride_px: int
    device: str
    backend: str
    precision: str
    height: int
    width: int
    batch: int
    num_threads: int
    median_ms: float
    p95_ms: float
    processor_ms: float
    frames_per_s: float
    peak_memory_mib: float
    flops: float
    matrix_share: float
    bytes_per_s: float
    memory_share: float
    min_cosine: float
    mean_cosine: float
    max_error: float


def measurements_path(machine: Machine | None = None) -> Path:
    """The file of a machine (default: this one)."""
    return cache_dir() / "measurements" / f"{(machine or this_machine()).key}.json"


def read_measurements(path: Path | None = None) -> list[Measurement]:
    """All rows of this machine; none where nothing was measured. Raises WeightsError for a damaged file."""
    path = path or measurements_path()
    if not path.is_file():
        return []
    try:
        return [Measurement(**row) for row in json.loads(path.read_text())["rows"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"measurements {path}: damaged ({error}); remove it and run `perception bench` again") from error


def store_measurements(rows: Iterable[Measurement], path: Path | None = None) -> Path:
    """Add the rows of one run; earlier ones of the same model, device, size and batch go."""
    path = path or measurements_path()
    new = list(rows)
    replaced = {_subject(row) for row in new}
    kept = [row for row in read_measurements(path) if _subject(row) not in replaced]
    content = {"machine": this_machine().as_dict(), "rows": [asdict(row) for row in (*kept, *new)]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        raise ConfigError(f"cache {path.parent}: cannot be written ({error.strerror}); set PERCEPTION_CACHE to a folder of yours") from error
    return path


def _subject(row: Measurement) -> tuple[str, int, str, int, int, int]:
    return row.model, row.stride_px, row.device, row.height, row.width, row.batch


def fastest(
    rows: Iterable[Measurement], model: str, stride_px: int, device: str, size: tuple[int, int], precision: str = "auto"
) -> Measurement | None:
    """The fastest accurate way to run single images of a model, at the measured size nearest to (height, width); None where nothing fits.

    precision: a name takes only rows of it, whatever their accuracy.
    """
    area = size[0] * size[1]
    subject = [row for row in rows if (row.model, row.stride_px, row.device, row.batch) == (model, stride_px, device, 1)]
    near = [row for row in subject if _area_ratio(row, area) <= _LARGEST_AREA_RATIO]
    if not near:
        return None
    # Of sizes of equal area the exact one.
    best = min(near, key=lambda row: (_area_ratio(row, area), (row.height, row.width) != size))
    same_size = [row for row in near if (row.height, row.width) == (best.height, best.width)]
    allowed = [row for row in same_size if (row.min_cosine >= MIN_COSINE if precision == "auto" else row.precision == precision)]
    return min(allowed, key=lambda row: row.median_ms, default=None)


def _area_ratio(row: Measurement, area: int) -> float:
    return math.exp(abs(math.log(row.height * row.width / area)))
