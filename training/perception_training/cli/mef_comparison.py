"""`perception-train mef-comparison RECIPE [--out DIR] [--compare.steps 200] [--field value ...]`.

Trains the variations that MEF's paper compares (losses, convolutions, adapter or whole network, one object, one pair, few iterations and objects),
measures APE on data that is not trained on, and writes comparison.csv, comparison.json and pictures. Run it again to go on after a stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.core.errors import ConfigError
from perception_training.cli.recipe import configure
from perception_training.recipes import RECIPES, make_recipe

_PREFIX = "--compare."


def main(arguments: Sequence[str], prog: str) -> int:
    """Train, write, and print the claims. Raises ConfigError for a recipe of another method."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    names = sorted(name for name in RECIPES if name.startswith(("mef_", "nano_mef")))
    parser.add_argument("recipe", metavar="RECIPE", help=", ".join(names))
    parser.add_argument("--out", type=Path, default=Path("runs/mef_comparison"), metavar="DIR", help="folder of table, pictures and runs")
    parser.add_argument(f"{_PREFIX}steps", type=int, metavar="N", help="iterations after which variations are compared")
    parser.add_argument(f"{_PREFIX}curve-steps", type=int, nargs="+", metavar="N", help="iterations at which the curves are looked at; 0 is needed")
    parser.add_argument(f"{_PREFIX}num-objects", type=int, nargs="+", metavar="N", help="numbers of objects between one and all")
    parser.add_argument(f"{_PREFIX}adapter-learning-rate", type=float, metavar="RATE", help="of convolutions behind a frozen network")
    chosen, rest = parser.parse_known_args(list(arguments))

    from perception_training.recipes.mef import MefRecipe  # takes seconds to import, which `--help` need not wait for
    from perception_training.recipes.mef_comparison import ComparisonConfig, compare
    from perception_training.recipes.mef_comparison_report import write_comparison

    recipe = configure(make_recipe(chosen.recipe), rest, f"{prog} {chosen.recipe}", chosen.recipe)
    if not isinstance(recipe, MefRecipe):
        raise ConfigError(f"recipe = {chosen.recipe!r}: is not of MEF; such are {', '.join(names)}")
    given = {name.removeprefix("compare.").replace("-", "_"): value for name, value in vars(chosen).items() if name.startswith("compare.")}
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None}
    config = ComparisonConfig(**settings)
    rows = compare(recipe, config, chosen.out, lambda done, total, name: print(f"{done + 1}/{total} {name}", flush=True))
    for claim in write_comparison(rows, recipe, config, chosen.out):
        print(f"{claim.verdict}: {claim.claim}: {claim.figures}")
    print(chosen.out)
    return 0
