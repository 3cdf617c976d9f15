"""How view equivariance and tasks go together: APE of several extractors against their score in each task (MEF, You et al., ICLR 2025, figure 3).

Everything is read from `score.json` files of other benchmarks; runs belong to one extractor where their labels are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from perception.core.errors import InputError
from perception_training.benchmarks.plots import Scatter, scatter_panels
from perception_training.benchmarks.running import SCORE_FORMAT, SCORE_JSON, BenchmarkScore

APE_BENCHMARK = "correspondence"
_MIN_POINTS = 3
"""Below this a correlation says nothing."""


@dataclass(frozen=True)
class ScoreFile:
    """What a comparison needs of one score.json. variant: tells apart runs of one benchmark on different data, such as the two lists of PF-PASCAL."""

    path: Path
    benchmark: str
    variant: str
    label: str
    headline: str
    value: float


def read_score(path: Path) -> ScoreFile:
    """A score.json, or the one in a folder. Raises InputError that names the file."""
    path = path / SCORE_JSON if path.is_dir() else path
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != SCORE_FORMAT:
        raise InputError(f"{path}: no score of a benchmark; must be written by perception-eval (format {SCORE_FORMAT!r})")
    try:
        value = content["summary"][content["headline"]]
        settings = content["predictions"]["config"].get("settings", {})
        variant = " ".join(part for part in (settings.get("data"), settings.get("reader", {}).get("view")) if part)
        return ScoreFile(path, content["benchmark"], variant, content["label"], content["headline"], float("nan") if value is None else float(value))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged score ({type(error).__name__}: {error})") from error


def correlate(paths: Sequence[Path], ape_data: str = "") -> BenchmarkScore:
    """A panel for each task with APE along x, and Spearman's rank correlation (as the sign of the task's figure has it; NaN below 3 extractors).

    ape_data: data set of the APE that is taken where there are several. Raises InputError when there is no APE, or none that has a task beside it.
    """
    scores = [read_score(path) for path in paths]
    ape = {item.label: item for item in scores if item.benchmark == APE_BENCHMARK and ape_data in ("", item.variant)}
    several = {item.variant for item in ape.values()}
    if not ape or len(several) > 1:
        found = ", ".join(sorted(several)) or "none"
        raise InputError(
            f"correlation: APE is known of {found}; must be of exactly one data set: give scores of `correspondence`, choose by --ape-data"
        )
    tasks: dict[tuple[str, str, str], dict[str, ScoreFile]] = {}
    for item in scores:
        if item not in ape.values():
            same = tasks.setdefault((item.benchmark, item.variant, item.headline), {})
            if item.label in same:
                raise InputError(
                    f"{item.path} and {same[item.label].path} are both {item.benchmark} {item.variant} of {item.label!r}: give one of them"
                )
            same[item.label] = item
    panels: list[Scatter] = []
    rows: list[dict[str, str | int | float]] = []
    for (benchmark, variant, headline), members in tasks.items():
        labels = sorted(ape.keys() & members.keys())
        if labels:
            x, y = [ape[label].value for label in labels], [members[label].value for label in labels]
            title = f"{benchmark} {variant}".strip()
            panels.append(Scatter(title, "APE (%), lower is better", headline.replace("_", " "), labels, x, y, reversed_y="ape" in headline))
            rank = float(spearmanr(x, y).statistic) if len(labels) >= _MIN_POINTS else float("nan")
            shared: dict[str, str | int | float] = {"task": title, "figure": headline, "rank_correlation": rank}
            rows += [{**shared, "extractor": label, "ape_percent": a, "value": b} for label, a, b in zip(labels, x, y, strict=True)]
    if not panels:
        raise InputError(f"correlation: no task has a label of those with APE ({', '.join(sorted(ape))}); labels must be equal")
    summary: Mapping[str, float] = {str(row["task"]): float(row["rank_correlation"]) for row in rows}
    return BenchmarkScore(summary, next(iter(summary)), rows, {"correlation.png": scatter_panels(panels)})
