"""`perception-train COMMAND ...` and `perception-train RECIPE [--field value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from perception.cli.program import Program
from perception_training.recipes import RECIPES

COMMANDS = {
    "render": "render training data with exact ground truth: views of meshes, or procedural scenes",
    "data": "check a copy of a data set, or write it into shards",
    "tracks": "follow points through videos and write the tracks beside them",
    "few-shot": "train a recipe of MEF on few objects and draw its error over iterations and objects",
    "mef-comparison": "train the variations that MEF's paper compares and table their errors on unseen objects",
}


class TrainProgram(Program):
    """Commands, and every recipe as one more."""

    def usage(self) -> str:
        """The commands and the recipes."""
        recipes = "\n".join(f"  {name}" for name in sorted(RECIPES)) or "  (none)"
        return (
            f"{Program(self.name, self.package, COMMANDS).usage()}\n\n"
            f"usage: {self.name} RECIPE [--field value ...]\n\n{recipes}\n\n"
            f"`{self.name} RECIPE --help` lists its fields.\n"
            "`torchrun --nproc-per-node N -m perception_training.cli.main RECIPE ...` trains with N processes."
        )

    def run_command(self, name: str, arguments: Sequence[str]) -> int:
        """A command, or training a recipe."""
        if name in COMMANDS:
            return super().run_command(name, arguments)
        from perception_training.cli import recipe

        return recipe.main(name, arguments, f"{self.name} {name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    names = {**COMMANDS, **dict.fromkeys(sorted(RECIPES), "recipe")}
    return TrainProgram("perception-train", "perception_training.cli", names, "command or recipe").main(argv)


if __name__ == "__main__":
    sys.exit(main())
