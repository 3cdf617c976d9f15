"""`perception COMMAND ...`: finds the command, reads its arguments, turns errors into one line and an exit code.

Exit codes: 0 done · 1 done, and the answer is no (`doctor` found something missing) · 2 an error that the user can mend · 130 Ctrl-C · 143 SIGTERM.
"""

from __future__ import annotations

import difflib
import importlib
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from perception.core.errors import PerceptionError

COMMANDS = {
    "demo": "replay a recorded or rendered stream through the ROS 2 nodes, score it and write a report",
    "up": "run the nodes in one process, without the `ros2` tool",
    "onboard": "learn an object from a mesh, a posed clip or a bag",
    "replay": "run the pipelines on a bag without ROS and write predictions and a report",
    "report": "write report.html again from a run's files",
    "doctor": "say what this machine has, what is missing and how to mend it",
}
"""Command → what it does; the module of the same name holds `Arguments` and `run(arguments) -> int`."""

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143


def usage() -> str:
    """The list of commands."""
    lines = "\n".join(f"  {name:<9} {summary}" for name, summary in COMMANDS.items())
    return f"usage: perception COMMAND [options]\n\n{lines}\n\n`perception COMMAND --help` explains one."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else EXIT_ERROR
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"error: unknown command {name!r}; known: {', '.join(COMMANDS)}{hint}", file=sys.stderr)
        return EXIT_ERROR
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return run_command(name, rest)
    except PerceptionError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Parse the arguments of a known command and run it."""
    import tyro

    module = importlib.import_module(f"perception.cli.{name}")
    parsed = tyro.cli(module.Arguments, args=arguments, prog=f"perception {name}", description=module.__doc__)
    return module.run(parsed)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # As an exception, so that the nodes that we started are stopped on the way out.
    raise SystemExit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
