"""The claims of MEF's paper in small and in one go: losses, number of convolutions, adapter or whole network, and few-shot curves, all by APE on data
that is never trained on. A run that was stopped goes on, and finished variations are not done again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from perception.core.config import Checked, Range
from perception.core.errors import ConfigError
from perception_training.recipes.mef import FEW_SHOT_STEPS, MefRecipe
from perception_training.recipes.mef_runs import evaluations_of

Form = Literal["mef_code", "brown"]

LOSSES, CONVS, ADAPTERS, ITERATIONS, OBJECTS = "loss", "convolutions, whole network", "convolutions, adapter", "iterations", "objects"
"""Groups of variations."""
ALL_OBJECTS = 0
SMOOTH_AP: Mapping[Form, str] = {"mef_code": "SmoothAP (MEF's code)", "brown": "SmoothAP (Brown et al.)"}
"""Names of its two forms; that of the recipe is trained as `all objects`."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(Checked):
    """How long and how widely is compared."""

    steps: Annotated[int, Range(1)] = 200
    """Iterations after which variations are compared."""
    curve_steps: tuple[int, ...] = FEW_SHOT_STEPS
    """Iterations at which the runs on one object and on all are looked at."""
    num_objects: tuple[int, ...] = (4, 16, 64)
    """Numbers of objects between one and all that are trained on for `steps`."""
    adapter_learning_rate: Annotated[float, Range(0.0)] = 1e-4
    """Of convolutions behind a frozen network; each of their weights moves all descriptors, so that a larger one spoils them."""
    noise_percent: Annotated[float, Range(0.0, 100.0)] = 2.5
    """Changes of APE smaller than this share of it are not told apart: two networks differed by 4.0 % on views rendered at 224 px, and by 1.8 % on
    views rendered at 320 px and shown at 224 (8 of each of six meshes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {0, 1} <= set(self.curve_steps) or min(self.curve_steps) < 0 or not self.num_objects or min(self.num_objects) < 2:
            raise ConfigError(
                f"ComparisonConfig: curve_steps {list(self.curve_steps)}, num_objects {list(self.num_objects)}: must have 0 and 1 among the steps, "
                "and at least one number of objects above 1"
            )


@dataclass(frozen=True)
class Variation:
    """One run. It is looked at after `recipe.train.evaluate_at` and `recipe.train.steps`."""

    group: str
    name: str
    recipe: MefRecipe


@dataclass(frozen=True)
class ComparisonRow:
    """Figures of one variation after so many iterations on so many objects (ALL_OBJECTS: all there are)."""

    group: str
    name: str
    num_objects: int
    iterations: int
    figures: dict[str, float]


def compare(recipe: MefRecipe, config: ComparisonConfig, out: Path, progress: Callable[[int, int, str], None] | None = None) -> list[ComparisonRow]:
    """Train all variations below `out` and give what they reach. progress: variations done, all, the next one's name.

    Raises ConfigError for a recipe whose runs cannot be compared on their way, or that is evaluated on nothing or on more than one data set.
    """
    _check(recipe)
    planned = list(variations(recipe, config))
    rows = []
    for number, variation in enumerate(planned):
        if progress is not None:
            progress(number, len(planned), f"{variation.group}: {variation.name}")
        folder = "_".join(re.findall(r"\w+", f"{variation.group} {variation.name}"))
        found = evaluations_of(variation.recipe, out / "runs" / folder, variation.name)
        count = variation.recipe.pairs.num_objects
        rows += [ComparisonRow(variation.group, variation.name, count, step, dict(figures)) for step, figures in found.items()]
    return rows


def _check(recipe: MefRecipe) -> None:
    schedule, num_sets = recipe.train.schedule, sum(bool(source.path) for source in recipe.held_out.sources)
    num_sets += len(recipe.pairs.sources) if recipe.pairs.num_held_out else 0
    if schedule.kind != "constant" or schedule.warm_up_steps:
        raise ConfigError(f"comparison: train.schedule = {schedule.kind}: must be constant without warm-up, as runs are looked at on their way")
    if recipe.loss.kind != "smooth_ap":
        raise ConfigError(f"comparison: loss.kind = {recipe.loss.kind}: must be smooth_ap, with which the others are compared")
    if num_sets != 1:
        raise ConfigError(f"comparison: {num_sets} data sets are evaluated; must be 1 (--held-out.sources.0.path DIR, or --num-held-out N)")


def variations(recipe: MefRecipe, config: ComparisonConfig) -> Iterator[Variation]:
    """All runs. Those of all objects and one object at full length come first, since other groups refer to them."""
    plain = _with(recipe, num_convs=0, conv_start="identity")
    short, curve = _for(plain, config.steps), _for(plain, max(*config.curve_steps, config.steps), (*config.curve_steps, config.steps))
    yield Variation(ITERATIONS, "all objects", curve)
    yield Variation(ITERATIONS, "one object", _objects(curve, 1))
    one = _objects(_for(plain, config.steps, (0, 1, 10)), 1)
    yield Variation(ITERATIONS, "one pair", replace(one, pairs=replace(one.pairs, one_pair=True)))
    other = next(form for form in SMOOTH_AP if form != recipe.loss.form)
    yield Variation(LOSSES, SMOOTH_AP[other], replace(short, loss=replace(short.loss, form=other)))
    yield Variation(LOSSES, "contrastive", replace(short, loss=replace(short.loss, kind="contrastive")))
    yield Variation(LOSSES, "DiffProc", replace(short, loss=replace(short.loss, kind="diff_procrustes", temperature=0.1)))
    for count in (1, 2, 3):
        yield Variation(CONVS, str(count), _with(short, num_convs=count))
    frozen = _with(short, train="adapter")
    frozen = replace(frozen, train=replace(frozen.train, optimiser=replace(frozen.train.optimiser, learning_rate=config.adapter_learning_rate)))
    for count in (1, 2, 3):
        yield Variation(ADAPTERS, str(count), _with(frozen, num_convs=count))
    yield Variation(ADAPTERS, "1 from random weights", _with(frozen, num_convs=1, conv_start="random"))
    for count in config.num_objects:
        yield Variation(OBJECTS, str(count), _objects(short, count))


def _with(recipe: MefRecipe, **network: object) -> MefRecipe:
    return replace(recipe, network=replace(recipe.network, **network))  # type: ignore[arg-type]


def _objects(recipe: MefRecipe, count: int) -> MefRecipe:
    return replace(recipe, pairs=replace(recipe.pairs, num_objects=count))


def _for(recipe: MefRecipe, steps: int, evaluate_at: Sequence[int] = ()) -> MefRecipe:
    looked_at = tuple(sorted({step for step in evaluate_at if step <= steps}))
    return replace(recipe, train=replace(recipe.train, steps=steps, evaluate_at=looked_at, evaluate_every=0))
