"""`perception-train COMMAND ...`."""

from __future__ import annotations

import sys

from perception.cli.program import Program

COMMANDS = {
    "render": "render training data with exact ground truth: views of meshes, or procedural scenes",
    "data": "check a copy of a data set, or write it into shards",
    "tracks": "follow points through videos and write the tracks beside them",
}

PROGRAM = Program("perception-train", "perception_training.cli", COMMANDS)
main = PROGRAM.main

if __name__ == "__main__":
    sys.exit(main())
