"""Compare files of weights with our networks, and write them as safetensors."""

from __future__ import annotations

from collections.abc import Sequence

from perception.cli.program import Program

COMMANDS = {
    "check": "compare a file with a network: missing, extra and other tensors, or whose it is",
    "convert": "write a file's tensors as safetensors, under the same names",
}


def main(arguments: Sequence[str], prog: str) -> int:
    """`perception weights COMMAND ...`."""
    return Program(prog, "perception.cli.weights", COMMANDS).main(arguments)
