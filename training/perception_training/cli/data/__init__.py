"""Check a copy of a data set, or write it into shards."""

from __future__ import annotations

from collections.abc import Sequence

from perception.cli.program import Program

COMMANDS = {
    "check": "walk a copy of a data set and report what is there and what is bad",
    "shard": "write a data set into webdataset shards",
}


def main(arguments: Sequence[str], prog: str) -> int:
    """`perception-train data COMMAND ...`."""
    return Program(prog, "perception_training.cli.data", COMMANDS).main(arguments)
