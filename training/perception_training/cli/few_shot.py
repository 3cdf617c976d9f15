"""`perception-train few-shot RECIPE [--curve-steps 0 1 5 ...] [--objects 1 4 ...] [--seeds 42 ...] [--out DIR] [--field value ...]`.

APE on held-out objects over iterations and over the number of objects, of any recipe of MEF; other words are fields of the recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from perception.core.errors import ConfigError
from perception_training.cli.recipe import configure
from perception_training.recipes import RECIPES, make_recipe

_DEFAULT_HELD_OUT = 8


def main(arguments: Sequence[str], prog: str) -> int:
    """Train and write the curves. Raises ConfigError for a recipe of another method."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    names = sorted(name for name in RECIPES if name.startswith(("mef_", "nano_mef")))
    parser.add_argument("recipe", metavar="RECIPE", help=", ".join(names))
    parser.add_argument(
        "--curve-steps", type=int, nargs="+", metavar="N", help="iterations at which it is looked at (default: 0 to 1000 as in the paper)"
    )
    parser.add_argument("--objects", type=int, nargs="+", default=[1], metavar="N", help="numbers of training objects; 0: all that are not held out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], metavar="N", help="each chooses other objects; the picture shows their mean")
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot"), metavar="DIR", help="folder of table, pictures and runs")
    chosen, rest = parser.parse_known_args(list(arguments))

    from perception_training.recipes.mef import FEW_SHOT_STEPS, MefRecipe  # takes seconds to import, which `--help` need not wait for
    from perception_training.recipes.mef_few_shot import few_shot_curves

    recipe = configure(make_recipe(chosen.recipe), rest, f"{prog} {chosen.recipe}", chosen.recipe)
    if not isinstance(recipe, MefRecipe):
        raise ConfigError(f"recipe = {chosen.recipe!r}: has no few-shot curves; such are {', '.join(names)}")
    if recipe.pairs.num_held_out == 0 and not any(source.path for source in recipe.held_out.sources):
        raise ConfigError(
            f"pairs.num_held_out = 0: curves need objects to look at; set --num-held-out {_DEFAULT_HELD_OUT}, or --held-out.sources.0.path DIR"
        )
    steps = chosen.curve_steps or FEW_SHOT_STEPS
    points = few_shot_curves(recipe, chosen.out, iterations=steps, num_objects=chosen.objects, seeds=chosen.seeds)
    print(f"{len(points)} points: {chosen.out}")
    return 0
