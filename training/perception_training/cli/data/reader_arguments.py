"""Arguments of the commands that work on a copy of a data set: `COMMAND NAME PATH ... [options of the command and of that data set]`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any, Generic, TypeVar

import tyro

from perception.cli.program import EXIT_ERROR, read_arguments
from perception.core.config import Checked
from perception.core.errors import ConfigError
from perception_training.data.readers import READERS, reader_class
from perception_training.data.sequences import Dataset

CommandT = TypeVar("CommandT")

_MAX_DESCRIPTION = 110


@dataclass(frozen=True)
class ReaderArguments(Generic[CommandT]):
    """What was asked for: the data set, the choices of its reader, and the command's own arguments (its path among them)."""

    kind: type[Dataset]
    options: Checked
    command: CommandT


def read_reader_arguments(command: type[CommandT], arguments: Sequence[str], prog: str, description: str | None) -> ReaderArguments[CommandT]:
    """Read NAME first, then the fields of the dataclass `command` together with the `Options` of that reader, both without prefixes.

    Prints help and exits as command lines do; raises ConfigError that lists the data sets, with what each is, for an unknown NAME.
    """
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage(prog, description))
        raise SystemExit(0 if words else EXIT_ERROR)
    if words[0].startswith("-"):
        print(f"error: {words[0]} stands where the name of the data set belongs\n\n{usage(prog, description)}", file=sys.stderr)
        raise SystemExit(EXIT_ERROR)
    if words[0] not in READERS:
        raise ConfigError(f"data set {words[0]!r} is unknown; known:\n{known_datasets()}")
    kind = reader_class(words[0])
    parsed: Any = read_arguments(_joined(command, kind.Options), words[1:], f"{prog} {words[0]}", description)
    return ReaderArguments(kind, parsed.options, parsed.command)


def usage(prog: str, description: str | None) -> str:
    """How to call the command, and the data sets."""
    return (
        f"usage: {prog} NAME PATH ... [options]\n\n{description}\n\ndata sets:\n{known_datasets()}\n\n`{prog} NAME --help` lists the options of one."
    )


def known_datasets() -> str:
    """A line for each data set: its name, and the first sentence of what its reader says of itself."""
    width = max(map(len, READERS))
    return "\n".join(f"  {name:<{width}}  {_first_sentence(reader_class(name).__doc__ or '')}" for name in sorted(READERS))


def _first_sentence(text: str) -> str:
    return textwrap.shorten(text.split(". ")[0].split(".\n")[0].removesuffix("."), _MAX_DESCRIPTION, placeholder=" …")


def _joined(command: type, options: type[Checked]) -> type:
    """One dataclass of both, so that tyro reads and explains them together; the reader's part may be left out where all of it has defaults."""
    kind: Any = options
    has_defaults = all(item.default is not MISSING or item.default_factory is not MISSING for item in fields(kind))
    default: Any = field(default_factory=options) if has_defaults else field()
    flat: Any = tyro.conf.OmitArgPrefixes
    return make_dataclass("Arguments", [("command", flat[command]), ("options", flat[options], default)], frozen=True)
