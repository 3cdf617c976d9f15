"""What `perception` and `perception-train` share: find the command, read its arguments, turn errors into one line and an exit code.

Exit codes: 0 done · 1 done, and the answer is no (`doctor` found something missing) · 2 an error that the user can mend · 130 Ctrl-C · 141 nobody
reads on (`| head`) · 143 SIGTERM.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from perception.core.errors import PerceptionError

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_UNREAD, EXIT_TERMINATED = 2, 130, 141, 143


@dataclass(frozen=True)
class Program:
    """A command line of several commands.

    commands: name → what it does; `package` has a module for each (dashes become underscores), with `Arguments` and `run(arguments) -> int`, or
    with `main(arguments, prog) -> int` where it reads its arguments itself.
    """

    name: str
    package: str
    commands: Mapping[str, str]
    noun: str = "command"
    """What an unknown name is said to be."""

    def usage(self) -> str:
        """The list of commands."""
        width = max(9, *map(len, self.commands))
        lines = "\n".join(f"  {name:<{width}} {summary}" for name, summary in self.commands.items())
        return f"usage: {self.name} COMMAND [options]\n\n{lines}\n\n`{self.name} COMMAND --help` explains one."

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run one command; returns the exit code."""
        arguments = list(sys.argv[1:] if argv is None else argv)
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(self.usage())
            return 0 if arguments else EXIT_ERROR
        name, *rest = arguments
        if name not in self.commands:
            near = difflib.get_close_matches(name, self.commands, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            print(f"error: unknown {self.noun} {name!r}; known: {', '.join(self.commands)}{hint}", file=sys.stderr)
            return EXIT_ERROR
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            status = self.run_command(name, rest)
            sys.stdout.flush()
            return status
        except PerceptionError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_ERROR
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes as it ends
            return EXIT_UNREAD
        finally:
            signal.signal(signal.SIGTERM, previous)

    def run_command(self, name: str, arguments: Sequence[str]) -> int:
        """Parse the arguments of a known command and run it."""
        module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        prog = f"{self.name} {name}"
        if hasattr(module, "main"):
            return module.main(arguments, prog)
        return module.run(read_arguments(module.Arguments, arguments, prog, module.__doc__))


def read_arguments(kind: type, arguments: Sequence[str], prog: str, description: str | None, default: object = None) -> object:
    """An instance of the dataclass `kind` from command-line words; prints help or what is wrong, and exits, as command lines do.

    default: an instance whose values hold where the words say nothing.
    """
    import tyro

    if default is None:
        return tyro.cli(kind, args=arguments, prog=prog, description=description)
    return tyro.cli(kind, args=arguments, prog=prog, description=description, default=default)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # As an exception, so that the nodes that we started are stopped on the way out.
    raise SystemExit(EXIT_TERMINATED)
