"""Few-shot curves of MEF (figures 10 and 12 of the paper): APE on held-out views over iterations and over objects, as CSV and pictures."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perception.core.errors import ConfigError
from perception_training.benchmarks.plots import Line, line_plot
from perception_training.recipes.mef import FEW_SHOT_STEPS, MefRecipe
from perception_training.recipes.mef_runs import evaluations_of

CSV_FILE, BY_ITERATIONS_FILE, BY_OBJECTS_FILE = "few_shot.csv", "by_iterations.png", "by_objects.png"
_METRIC = "ape_percent"


@dataclass(frozen=True)
class FewShotPoint:
    """Figures (`benchmarks/correspondence.py`) after so many iterations on so many objects, which `seed` chose."""

    num_objects: int
    seed: int
    iterations: int
    figures: dict[str, float]


def few_shot_curves(
    recipe: MefRecipe, out: Path, *, iterations: Sequence[int] = FEW_SHOT_STEPS, num_objects: Sequence[int] = (1,), seeds: Sequence[int] = (42,)
) -> list[FewShotPoint]:
    """Train `recipe` once for each number of objects and seed, look at it after `iterations`, and write `few_shot.csv` and the pictures into `out`.
    A call that was stopped goes on there.

    The recipe's schedule must be constant, so that a run that is looked at on its way is the same as a shorter one. The held-out sequences are the
    same for all numbers of objects of a seed; a seed chooses other objects, and other ones that are held out. Raises ConfigError.
    """
    if recipe.train.schedule.kind != "constant" or recipe.train.schedule.warm_up_steps:
        raise ConfigError(
            f"few-shot: train.schedule = {recipe.train.schedule.kind}: must be constant without warm-up, as runs are looked at on their way"
        )
    if not iterations or min(iterations) < 0 or not num_objects or not seeds or not _is_evaluated(recipe):
        raise ConfigError(
            f"few-shot: iterations {list(iterations)}, objects {list(num_objects)}, seeds {list(seeds)}, pairs.num_held_out "
            f"{recipe.pairs.num_held_out}: there must be at least one of each, and none negative"
        )
    points = []
    for count in num_objects:
        for seed in seeds:
            settings = replace(
                recipe.train, out=str(out / f"objects_{count}_seed_{seed}"), seed=seed, steps=max(iterations), evaluate_at=tuple(iterations)
            )
            run = replace(recipe, train=settings, pairs=replace(recipe.pairs, num_objects=count, seed=seed))
            evaluations = evaluations_of(run, Path(settings.out), "few_shot")
            points += [FewShotPoint(count, seed, step, dict(evaluations[step])) for step in sorted(set(iterations))]
    write_few_shot(points, out)
    return points


def write_few_shot(points: Sequence[FewShotPoint], out: Path) -> None:
    """The table and the pictures of these points."""
    out.mkdir(parents=True, exist_ok=True)
    names = sorted({name for point in points for name in point.figures})
    with (out / CSV_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["num_objects", "seed", "iterations", *names])
        for point in points:
            values = [f"{point.figures[name]:.6g}" if name in point.figures else "" for name in names]
            writer.writerow([point.num_objects, point.seed, point.iterations, *values])
    counts, steps = sorted({point.num_objects for point in points}), sorted({point.iterations for point in points})
    by_step = [Line(_objects(count), [math.log10(1 + step) for step in steps], [_mean(points, count, step) for step in steps]) for count in counts]
    (out / BY_ITERATIONS_FILE).write_bytes(line_plot(by_step, "log10(1 + iterations)", "APE on held-out objects (%)"))
    if len(counts) > 1:
        by_count = [
            Line(f"{step} iterations", [math.log10(count) for count in counts], [_mean(points, count, step) for count in counts]) for step in steps
        ]
        (out / BY_OBJECTS_FILE).write_bytes(line_plot(by_count, "log10(objects)", "APE on held-out objects (%)"))


def _is_evaluated(recipe: MefRecipe) -> bool:
    return recipe.pairs.num_held_out > 0 or any(source.path for source in recipe.held_out.sources)


def _objects(count: int) -> str:
    return "all objects" if count == 0 else "1 object" if count == 1 else f"{count} objects"


def _mean(points: Sequence[FewShotPoint], num_objects: int, iterations: int) -> float:
    """Of the metric over seeds; NaN where nothing is known."""
    values = [
        point.figures[_METRIC] for point in points if (point.num_objects, point.iterations) == (num_objects, iterations) and _METRIC in point.figures
    ]
    return sum(values) / len(values) if values else float("nan")
