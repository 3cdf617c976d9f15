"""report.html: one file that shows a run, made from the run folder's files alone. Nothing in it is loaded from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from perception.evaluation.pictures import Picture, read_pictures
from perception.evaluation.predictions import write_atomically
from perception.evaluation.provenance import Header
from perception.evaluation.run_folder import PICTURES_FOLDER, PREDICTIONS_FILE, REPORT_FILE, TRUTH_FILE, RunDescription
from perception.evaluation.score import PoseScore, Score, percent, score_files, shown, write_score
from perception.geometry import se3
from perception.viz import plots

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_MAX_TOP_VIEWS = 4

Plot = Callable[[plots.PlotTheme], bytes]


def write_report(folder: str | Path, expected: Header | None = None) -> tuple[Path, Score]:
    """Score the run in `folder` and write score.json, score.csv, errors.csv and report.html. Returns the report's path and the score.

    Reads predictions.jsonl, truth.jsonl (optional), run.json (optional) and pictures/ (optional). With `expected`, predictions of another
    config or source are refused with InputError.
    """
    folder = Path(folder)
    description = RunDescription.read(folder)
    truth = folder / TRUTH_FILE
    score = score_files(folder / PREDICTIONS_FILE, truth if truth.is_file() else None, expected, description.position)
    write_score(score, folder)
    write_atomically(folder / REPORT_FILE, render_report(score, description, _embedded(folder, read_pictures(folder))))
    return folder / REPORT_FILE, score


def render_report(score: Score, description: RunDescription, pictures: list[dict[str, str]] | None = None) -> str:
    """The HTML. pictures: mappings with kind, caption and data (a data URI)."""
    header = score.predictions_header or Header({}, "")
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=shown, percent=percent)
    gallery = [picture for picture in pictures or [] if picture["kind"] != "features"]
    return environment.get_template("report.html.j2").render(
        description=description,
        score=score,
        rows=_rows(score),
        header=header,
        settings=list(_flat(header.config)),
        gallery=gallery,
        strip=[picture for picture in pictures or [] if picture["kind"] == "features"],
        plots=[{"title": title, "text": text, **_data_uris(plot)} for title, text, plot in _plots(score)],
        misses=_reasons(score),
    )


def _rows(score: Score) -> list[PoseScore]:
    return list(score.objects) if len(score.objects) == 1 else [*score.objects, score.overall]


def _embedded(folder: Path, pictures: list[Picture]) -> list[dict[str, str]]:
    return [
        {"kind": picture.kind, "caption": picture.caption, "data": _data_uri((folder / PICTURES_FOLDER / picture.file).read_bytes(), "jpeg")}
        for picture in pictures
    ]


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _data_uris(plot: Plot) -> dict[str, str]:
    return {"light": _data_uri(plot(plots.LIGHT), "png"), "dark": _data_uri(plot(plots.DARK), "png")}


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)))
    return found


def _reasons(score: Score) -> list[tuple[str, int]]:
    """Why there was no pose, with counts, most frequent first; figures inside a reason are left out so that equal reasons meet."""
    counts: dict[str, int] = {}
    for record in [error.prediction for error in score.errors] or score.predictions:
        if record.camera_from_object is None:
            reason = record.reason.partition("(")[0].strip() or "no reason given"
            counts[reason] = counts.get(reason, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])[:8]


def _plots(score: Score) -> list[tuple[str, str, Plot]]:
    """Title, explanation and drawing of each plot that has something to show."""
    found: list[tuple[str, str, Plot]] = []
    if not score.predictions:
        return found
    start_ns = min(record.time_ns for record in score.predictions)
    if score.errors:
        series = _error_series(score, start_ns)
        found.append(("Error over time", "Crosses at the foot are frames without a pose.", lambda theme: plots.error_over_time(series, theme)))
        text = "Share of frames below each error; frames without a pose never enter. Dashed: the usual thresholds."
        found.append(("Cumulative error", text, lambda theme: plots.cumulative_errors(series, theme=theme)))
        found += _top_views(score)
    else:
        best = {record.time_ns: record for record in sorted(score.predictions, key=lambda item: item.score)}
        records = [best[time_ns] for time_ns in sorted(best)]
        time_s = np.array([1e-9 * (record.time_ns - start_ns) for record in records])
        values = np.array([(item.score, item.num_inliers) if item.camera_from_object is not None else (np.nan, np.nan) for item in records])
        text = "Of the best estimate in each frame; gaps are frames without a pose."
        found.append(("Confidence over time", text, lambda theme: plots.confidence_over_time(time_s, values[:, 0], values[:, 1], theme)))
    frames = {record.time_ns: record for record in score.predictions}
    times_ns = sorted(frames)
    seconds = np.array([(1e-9 * (key - start_ns), frames[key].step_s, frames[key].latency_s) for key in times_ns])
    if np.isfinite(seconds[:, 1:]).any():
        text = "Latency: from the arrival of the image to publication. Step: time inside the pipeline."
        found.append(("Speed", text, lambda theme: plots.latency(seconds[:, 0], seconds[:, 1], seconds[:, 2], theme)))
    return found


def _error_series(score: Score, start_ns: int) -> list[plots.ErrorSeries]:
    series = []
    for item in score.objects:
        rows = [
            (1e-9 * (error.truth.time_ns - start_ns), error.rotation_deg, error.translation_cm)
            for error in score.errors
            if error.truth.object_name == item.object_name
        ]
        if rows:
            series.append(plots.ErrorSeries(item.object_name, *np.array(rows).T))
    return series


def _top_views(score: Score) -> list[tuple[str, str, Plot]]:
    """Way of each object under the camera, or of the camera over the scene, in the two directions in which it extends most."""
    found: list[tuple[str, str, Plot]] = []
    for item in score.objects[:_MAX_TOP_VIEWS]:
        errors = [error for error in score.errors if error.truth.object_name == item.object_name]
        if not errors:
            continue
        true = np.stack([error.truth.camera_from_object for error in errors])
        missing = np.full((4, 4), np.nan)
        estimated = np.stack([missing if (pose := error.prediction.camera_from_object) is None else pose for error in errors])
        if score.position == "camera":
            true, estimated = se3.inverse(true), se3.inverse(estimated)
        axes = sorted(np.argsort(np.ptp(true[:, :3, 3], axis=0))[1:])
        labels = (f"{'xyz'[axes[0]]} (m)", f"{'xyz'[axes[1]]} (m)")
        text = (
            "Camera positions in the scene." if score.position == "camera" else "Object positions in the camera frame (x right, y down, z forward)."
        )
        found.append((f"Trajectory: {item.object_name}", text, _top_view(true[:, axes, 3], estimated[:, axes, 3], labels)))
    return found


def _top_view(true_m: np.ndarray, estimated_m: np.ndarray, labels: tuple[str, str]) -> Plot:
    return lambda theme: plots.top_view(true_m, estimated_m, labels, theme)
