"""Table, verdicts and pictures of a comparison (`mef_comparison.py`)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.core.config import to_mapping
from perception.evaluation.predictions import write_atomically
from perception.evaluation.provenance import Header
from perception.evaluation.score import rows_as_csv
from perception_training.benchmarks.plots import Line, bar_plot, line_plot
from perception_training.recipes.mef import MefRecipe
from perception_training.recipes.mef_comparison import (
    ADAPTERS,
    ALL_OBJECTS,
    CONVS,
    ITERATIONS,
    LOSSES,
    OBJECTS,
    SMOOTH_AP,
    ComparisonConfig,
    ComparisonRow,
)
from perception_training.recipes.mef_runs import weights_of

TABLE_JSON, TABLE_CSV = "comparison.json", "comparison.csv"
_METRIC = "ape_percent"
_WANTED_CHANGE_PERCENT = -20.0
ALL, ONE, PAIR, NONE = "all objects", "one object", "one pair", "none"


@dataclass(frozen=True)
class Claim:
    """What the paper says, whether it held here, whether by more than noise, and by which figures."""

    claim: str
    holds: bool
    is_clear: bool
    figures: str

    @property
    def verdict(self) -> str:
        """In words."""
        return ("holds" if self.holds else "does not hold") + ("" if self.is_clear else " (within noise)")


class Comparison:
    """Rows of a comparison, looked up by what they are of."""

    def __init__(self, rows: Sequence[ComparisonRow], config: ComparisonConfig) -> None:
        self.rows, self.config = rows, config
        self._ape = {(row.group, row.name, row.iterations): row.figures[_METRIC] for row in rows}
        self.before = self._ape[ITERATIONS, ALL, 0]

    def ape(self, group: str, name: str, iterations: int | None = None) -> float:
        """After so many iterations (default: those of the comparison). The reference run stands for SmoothAP and for no convolutions."""
        steps = self.config.steps if iterations is None else iterations
        if name == NONE:
            return self.before
        is_reference = name in SMOOTH_AP.values() and (group, name, steps) not in self._ape
        if is_reference or (group, name) in ((CONVS, "0"), (OBJECTS, "all")):
            return self._ape[ITERATIONS, ALL, steps]
        if (group, name) == (ADAPTERS, "0"):
            return self.before
        if (group, name) == (OBJECTS, "1"):
            return self._ape[ITERATIONS, ONE, steps]
        return self._ape[group, name, steps]

    def change(self, ape: float) -> float:
        """In percent of the APE before training."""
        return 100 * (ape / self.before - 1)

    def claims(self) -> list[Claim]:
        """The claims of issue and paper."""
        longest = max(*self.config.curve_steps, self.config.steps)
        final, first = self.ape(ITERATIONS, ALL, longest), self.ape(ITERATIONS, ONE, 1)
        losses = {name: self.ape(LOSSES, name) for name in (*SMOOTH_AP.values(), "contrastive", "DiffProc", NONE)}
        # By the recipe's form of SmoothAP: the better of two would have an advantage.
        ordered = [self.ape(CONVS, "0"), losses["contrastive"], losses[NONE]]
        found = [
            Claim(
                f"APE on unseen meshes falls by {-_WANTED_CHANGE_PERCENT:g} %",
                self.change(final) <= _WANTED_CHANGE_PERCENT,
                self._are_apart(final, (1 + _WANTED_CHANGE_PERCENT / 100) * self.before),
                f"{self.before:.2f} → {final:.2f} % after {longest} iterations ({self.change(final):+.1f} %)",
            ),
            Claim(
                "one iteration on one object lowers APE",
                first < self.before,
                self._are_apart(first, self.before),
                f"{self.before:.3f} → {first:.3f} % ({self.change(first):+.2f} %)",
            ),
            Claim("SmoothAP ≥ contrastive ≥ none", ordered == sorted(ordered), self._are_apart(*ordered), _listed(losses)),
        ]
        for group, what in ((CONVS, "whole network"), (ADAPTERS, "adapter alone")):
            by_count = {name: self.ape(group, name) for name in ("0", "1", "2", "3")}
            holds, best = min(by_count, key=by_count.__getitem__) == "1", sorted(by_count.values())[:2]
            found.append(Claim(f"one convolution is the best of 0 to 3 ({what})", holds, self._are_apart(*best), _listed(by_count)))
        return found

    def _are_apart(self, *apes: float) -> bool:
        """Whether neighbours differ by more than noise."""
        smallest = min(abs(a - b) for a, b in itertools.pairwise(apes))
        return 100 * smallest / self.before > self.config.noise_percent

    def table(self) -> list[dict[str, Any]]:
        """A row for each evaluation."""
        names = sorted({name for row in self.rows for name in row.figures if name.startswith(("ape", "pcdp"))})
        return [
            {
                "group": row.group,
                "variation": row.name,
                "num_objects": "all" if row.num_objects == ALL_OBJECTS else row.num_objects,
                "iterations": row.iterations,
                "change_percent": round(self.change(row.figures[_METRIC]), 3),
                **{name: row.figures.get(name) for name in names},
            }
            for row in self.rows
        ]

    def pictures(self) -> dict[str, bytes]:
        """APE over iterations, over objects, and of the variations."""
        curves = []
        for name in (ALL, ONE, PAIR):
            points = sorted((row.iterations, row.figures[_METRIC]) for row in self.rows if (row.group, row.name) == (ITERATIONS, name))
            curves.append(Line(name, [math.log10(1 + step) for step, _ in points], [value for _, value in points]))
        counts = ["1", *map(str, self.config.num_objects)]
        by_objects = Line(f"{self.config.steps} iterations", [math.log10(int(n)) for n in counts], [self.ape(OBJECTS, n) for n in counts])
        level = [by_objects.x[0], by_objects.x[-1]]
        everything, before = self.ape(OBJECTS, "all"), self.before
        bars = {NONE: before, **{name: self.ape(LOSSES, name) for name in (*SMOOTH_AP.values(), "contrastive", "DiffProc")}}
        bars |= {f"{count} conv": self.ape(CONVS, count) for count in ("1", "2", "3")}
        bars |= {f"adapter {count} conv": self.ape(ADAPTERS, count) for count in ("1", "2", "3")}
        label = "APE on unseen objects (%)"
        return {
            "by_iterations.png": line_plot(curves, "log10(1 + iterations)", label),
            "by_objects.png": line_plot(
                [by_objects, Line("all objects", level, [everything] * 2), Line("before", level, [before] * 2)], "log10(objects)", label
            ),
            "variations.png": bar_plot(list(bars), [Line("APE", [], list(bars.values()))], label),
        }


def write_comparison(rows: Sequence[ComparisonRow], recipe: MefRecipe, config: ComparisonConfig, out: Path) -> list[Claim]:
    """comparison.csv, comparison.json and the pictures; the claims, which the JSON holds as well."""
    comparison = Comparison(rows, config)
    claims, table = comparison.claims(), comparison.table()
    header = Header.here({"recipe": to_mapping(recipe), "comparison": to_mapping(config)}, weights_of(recipe))
    content = {"claims": [{**vars(claim), "verdict": claim.verdict} for claim in claims], "rows": table, "header": header.to_mapping()}
    write_atomically(out / TABLE_JSON, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / TABLE_CSV, rows_as_csv(table))
    for name, png in comparison.pictures().items():
        write_atomically(out / name, png)
    return claims


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())
