"""Predictions of a benchmark as a file: one header, then one line of JSON for each unit of work, added when it is done.

A unit is what is predicted by itself: a sequence, a video, a pair, an image. A run that was stopped goes on with the units that have no line yet.
Scores are made from this file alone. Predictions of another configuration or another source are refused.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.core.errors import InputError
from perception.evaluation.predictions import parsed_row, write_atomically
from perception.evaluation.provenance import Header

FORMAT, VERSION = "perception-benchmark-predictions", 1
FILE = "predictions.jsonl"
SKIPPED = "skipped"
"""Key of a record that says why its unit could not be predicted."""

Record = Mapping[str, Any]
"""Plain values. NaN and infinity come back as None."""


class RecordFile:
    """The records of a run, open for more. `records`: unit → what was predicted so far."""

    def __init__(self, path: Path, header: Header, units: Sequence[str], restart: bool = False) -> None:
        """Begin a file, or go on with one of equal header and units; `restart` begins anew in any case.

        Raises InputError for a file of another setup.
        """
        self.path, self.header, self.units = path, header, tuple(units)
        self.records: dict[str, Record] = {}
        if path.is_file() and not restart:
            _, _, self.records = read_records(path, header, units)
            # The end of a line that was being written when the run was stopped is cut off.
            write_atomically(path, "".join(_line(row) for row in [_head(header, units), *_rows(self.records)]))
        else:
            write_atomically(path, _line(_head(header, units)))

    @property
    def missing(self) -> tuple[str, ...]:
        """Units without a record, in order."""
        return tuple(unit for unit in self.units if unit not in self.records)

    def add(self, unit: str, record: Record) -> None:
        """Add what was predicted of a unit; it is on the disk when this returns."""
        assert unit in self.units, unit
        assert unit not in self.records, unit
        with self.path.open("a") as stream:
            stream.write(_line({"unit": unit, **_plain(record)}))
            stream.flush()
            os.fsync(stream.fileno())
        self.records[unit] = record


def read_records(path: Path, expected: Header | None = None, units: Sequence[str] | None = None) -> tuple[Header, tuple[str, ...], dict[str, Record]]:
    """Header, names of all units, and the records that are there.

    Raises InputError when the file is damaged (an unfinished last line is not), and for another setup than `expected` or other `units`.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file of JSON lines") from error
    lines = text.split("\n")[:-1]  # what follows the last line end is empty, or was being written
    rows = [parsed_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if not rows or rows[0].get("format") != FORMAT or rows[0].get("version") != VERSION:
        found = f"{rows[0].get('format')!r} {rows[0].get('version')!r}" if rows else "no whole line"
        raise InputError(f"{path}: starts with {found}; must be {FORMAT!r} {VERSION}")
    header, found_units = _header(rows[0], path)
    differences = header.differences(expected) if expected is not None else []
    if not differences and units is not None and found_units != tuple(units):
        differences = [f"{len(found_units)} units of work, expected {len(units)} or others"]
    if differences:
        raise InputError(f"{path}: stale predictions, made with another setup: {'; '.join(differences)}. Take another --out, or --restart")
    records: dict[str, Record] = {}
    for number, row in enumerate(rows[1:], 2):
        unit = row.pop("unit", None)
        if unit not in found_units or unit in records:
            raise InputError(f"{path}, line {number}: unit {unit!r} is {'there twice' if unit in records else 'not one of the header'}")
        records[unit] = row
    return header, found_units, records


def _header(row: Mapping[str, Any], path: Path) -> tuple[Header, tuple[str, ...]]:
    keys = ("config", "source", "commit", "created", "machine", "versions")
    try:
        header = Header(**{key: row[key] for key in keys})
        units = tuple(row["units"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: header has keys {sorted(row)}; must have {', '.join((*keys, 'units'))}") from error
    if row.get("fingerprint") != header.fingerprint:
        raise InputError(f"{path}: header does not match its fingerprint: it was changed by hand")
    return header, units


def _head(header: Header, units: Sequence[str]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "fingerprint": header.fingerprint, **header.to_mapping(), "units": list(units)}


def _rows(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    return [{"unit": unit, **record} for unit, record in records.items()]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_plain(row), separators=(",", ":"), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON has neither arrays nor NaN: they become nested lists and null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def floats(value: Any) -> np.ndarray:
    """An array of a record's numbers, with NaN where they are unknown."""
    return np.array(value, dtype=np.float64)
