"""Predictions and truth as files: JSON lines, one header and one record for each frame and object. Predict once, score from files only."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import PoseResult
from perception.evaluation.provenance import Header
from perception.io.bags import BagReader

VERSION = 1
PREDICTIONS_FORMAT = "perception-pose-predictions"
TRUTH_FORMAT = "perception-pose-truth"


@dataclass(frozen=True, eq=False)
class PosePrediction:
    """What was said of one object in one frame.

    camera_from_object (4, 4) metres, None: no pose, and `reason` says why · object_name empty: the frame was processed and nothing at all
    was said · step_s: time in the pipeline · latency_s: from the arrival of the image to publication · NaN where not measured.
    """

    time_ns: int
    object_name: str
    camera_from_object: NDArray[np.float64] | None = None
    score: float = 0.0
    num_inliers: int = 0
    num_matches: int = 0
    reprojection_rms_px: float = math.nan
    step_s: float = math.nan
    latency_s: float = math.nan
    reason: str = ""


@dataclass(frozen=True, eq=False)
class PoseTruth:
    """The true pose of one object in one frame. symmetries: motions (4, 4) of the object, in its own frame, that leave it looking the same."""

    time_ns: int
    object_name: str
    camera_from_object: NDArray[np.float64]
    symmetries: tuple[NDArray[np.float64], ...] = ()


RecordT = TypeVar("RecordT", PosePrediction, PoseTruth)


def predictions_of(result: PoseResult, step_s: float = math.nan, latency_s: float = math.nan) -> list[PosePrediction]:
    """The records of one pipeline step: one for each estimate and miss; one without a name when there is neither."""
    records = [
        PosePrediction(
            result.time_ns, e.object_name, e.camera_from_object, e.score, e.num_inliers, e.num_matches, e.reprojection_rms_px, step_s, latency_s
        )
        for e in result.estimates
    ]
    records += [
        PosePrediction(result.time_ns, m.object_name, None, m.score, m.num_inliers, m.num_matches, math.nan, step_s, latency_s, m.reason)
        for m in result.misses
    ]
    return records or [PosePrediction(result.time_ns, "", step_s=step_s, latency_s=latency_s, reason="no object known")]


def write_predictions(path: str | Path, header: Header, predictions: Iterable[PosePrediction]) -> None:
    """Write all at once and rename, so that a file that exists is complete."""
    _write(Path(path), PREDICTIONS_FORMAT, header, predictions)


def write_truth(path: str | Path, header: Header, truth: Iterable[PoseTruth]) -> None:
    """As `write_predictions`."""
    _write(Path(path), TRUTH_FORMAT, header, truth)


def read_predictions(path: str | Path, expected: Header | None = None) -> tuple[Header, list[PosePrediction]]:
    """Header and records. With `expected`, predictions of another config or source are refused; the InputError says what differs."""
    return _read(Path(path), PREDICTIONS_FORMAT, PosePrediction, expected)


def read_truth(path: str | Path) -> tuple[Header, list[PoseTruth]]:
    """Header and records of a truth file."""
    return _read(Path(path), TRUTH_FORMAT, PoseTruth, None)


def read_status_messages(bag: str | Path, topic: str = "/object_pose/status") -> list[PosePrediction]:
    """Predictions from a recording of the `object_pose` node: its `~/status` messages (std_msgs/String, JSON; see ARCHITECTURE.md)."""
    with BagReader(bag) as reader:
        reader.require(topic, "std_msgs/msg/String")
        texts = [item.message.data for item in reader.messages([topic])]
    return [record for number, text in enumerate(texts, 1) for record in predictions_from_status(text, f"{bag}, {topic}, message {number}")]


def read_truth_topics(bag: str | Path, prefix: str = "/ground_truth/", suffix: str = "/pose") -> list[PoseTruth]:
    """Truth from PoseStamped topics `<prefix><object><suffix>`: camera_from_object at the stamp of the image. Empty when the bag has none."""
    truth = []
    with BagReader(bag) as reader:
        for topic in reader.find_topics("geometry_msgs/msg/PoseStamped"):
            if topic.startswith(prefix) and topic.endswith(suffix):
                track = reader.poses(topic)
                name = topic[len(prefix) : len(topic) - len(suffix)]
                truth += [PoseTruth(int(time_ns), name, pose) for time_ns, pose in zip(track.times_ns, track.parent_from_child, strict=True)]
    return truth


def predictions_from_status(text: str, place: str = "status") -> list[PosePrediction]:
    """The records of one status message. InputError names `place` when it cannot be read."""
    try:
        status = json.loads(text)
        time_ns, step_s, latency_s = int(status["stamp_ns"]), _number(status.get("step_s")), _number(status.get("latency_s"))
        records = [
            _record(PosePrediction, {**_named(item), "time_ns": time_ns, "step_s": step_s, "latency_s": latency_s}, place)
            for item in (*status.get("estimates", ()), *status.get("misses", ()))
        ]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"{place}: not a status message of object_pose ({type(error).__name__}: {error})") from error
    return records or [PosePrediction(time_ns, "", step_s=step_s, latency_s=latency_s, reason="no object known")]


def status_of(records: Sequence[PosePrediction]) -> str:
    """The status message (JSON) that says the same as the records of one frame; at least one."""
    estimates, misses = [], []
    for record in records:
        item = {key: _jsonable(value) for key, value in vars(record).items() if key not in ("time_ns", "object_name", "step_s", "latency_s")}
        if record.camera_from_object is not None:
            estimates.append({"object": record.object_name, **item})
        elif record.object_name:
            misses.append({"object": record.object_name, **item})
    first = records[0]
    times = {"stamp_ns": first.time_ns, "step_s": _jsonable(first.step_s), "latency_s": _jsonable(first.latency_s)}
    return json.dumps({**times, "estimates": estimates, "misses": misses})


def _named(item: dict[str, Any]) -> dict[str, Any]:
    """A status entry under the field names of `PosePrediction`; keys that it does not have are left out."""
    known = {field.name for field in fields(PosePrediction)}
    return {"object_name": item["object"], **{key: value for key, value in item.items() if key in known}}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _write(path: Path, kind: str, header: Header, records: Iterable[PosePrediction] | Iterable[PoseTruth]) -> None:
    head = {"format": kind, "version": VERSION, "fingerprint": header.fingerprint, **header.to_mapping()}
    lines = [json.dumps(head), *(json.dumps({key: _jsonable(value) for key, value in vars(record).items()}) for record in records)]
    write_atomically(path, "\n".join(lines) + "\n")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to disk, rename. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _jsonable(value: Any) -> Any:
    """NaN and infinity become null, arrays flat lists: every JSON reader takes the file."""
    if isinstance(value, np.ndarray):
        return [float(item) for item in value.ravel()]
    if isinstance(value, (tuple, list)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _read(path: Path, kind: str, cls: type[RecordT], expected: Header | None) -> tuple[Header, list[RecordT]]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file of JSON lines") from error
    rows = [parsed_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    head = rows[0] if rows else {}
    if head.get("format") != kind or head.get("version") != VERSION:
        raise InputError(f"{path}: format {head.get('format')!r} version {head.get('version')!r}; must be {kind!r} version {VERSION}")
    header = Header(**{field.name: head[field.name] for field in fields(Header) if field.name in head})
    if head.get("fingerprint") != header.fingerprint:
        raise InputError(f"{path}: the header was changed after it was written (its fingerprint does not fit config and source); predict again")
    if expected is not None and (found := header.differences(expected)):
        raise InputError(f"{path}: stale predictions, made with another setup: {'; '.join(found)}. Predict again")
    return header, [_record(cls, row, f"{path}, line {number}") for number, row in enumerate(rows[1:], 2)]


def parsed_row(line: str, place: str) -> dict[str, Any]:
    """One line of a JSONL file. Raises InputError that names `place` when it is no JSON object."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: must be a JSON object, is {type(row).__name__}")
    return row


def _record(cls: type[RecordT], row: dict[str, Any], place: str) -> RecordT:
    """A record from plain values: unknown keys and poses of a wrong shape are errors, null numbers are NaN."""
    known = {field.name: field.type for field in fields(cls)}
    unknown = sorted(set(row) - set(known))
    if unknown or not {"time_ns", "object_name"} <= set(row):
        raise InputError(f"{place}: keys {sorted(row)}; must hold time_ns and object_name and only {sorted(known)}")
    values: dict[str, Any] = {key: math.nan if value is None and known[key] == "float" else value for key, value in row.items()}
    if values.get("camera_from_object") is not None or cls is PoseTruth:
        values["camera_from_object"] = _transform(values.get("camera_from_object"), place)
    if "symmetries" in values:
        values["symmetries"] = tuple(_transform(item, place) for item in values["symmetries"])
    return cls(**values)


def _transform(values: Sequence[float] | None, place: str) -> NDArray[np.float64]:
    matrix = np.asarray(values if values is not None else [], np.float64)
    if matrix.size != 16 or not np.isfinite(matrix).all():
        raise InputError(f"{place}: a transform of {matrix.size} values; must be 16 finite numbers, row by row")
    return matrix.reshape(4, 4)
