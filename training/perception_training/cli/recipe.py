"""`perception-train RECIPE [--field value ...]`: read the fields of a recipe from the command line and train."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from perception.cli.program import read_arguments
from perception.core.errors import ConfigError
from perception_training.recipes import RECIPES, make_recipe

_ENGINE = "train"


def main(name: str, arguments: Sequence[str], prog: str) -> int:
    """Train recipe `name`. Raises ConfigError that lists the fields for one that it does not have."""
    from perception_training.loop.training import train  # takes seconds to import, which `--help` need not wait for

    config = configure(make_recipe(name), arguments, prog, f"{name} ({RECIPES[name]})")
    train(config, name)
    return 0


def configure(recipe: Any, arguments: Sequence[str], prog: str, place: str) -> Any:
    """`recipe` with the fields that `arguments` name set. A field may be named by its end (`--steps` for `--train.steps`) where only one has it, or
    the engine's (`train`) is among several."""
    known = dict(_fields(recipe))
    words = [_full_flag(word, known, place) if word.startswith("--") else word for word in arguments]
    description = f"Train {place}. A field may be named by its end where that is unambiguous: --steps for --train.steps."
    return read_arguments(type(recipe), words, prog, description, default=recipe)


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all settings."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        entries = list(enumerate(value)) if isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)) else []
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{item.name}.")
        elif entries:
            for number, entry in entries:
                yield from _fields(entry, f"{prefix}{item.name}.{number}.")
        else:
            yield prefix + item.name, value


def _full_flag(word: str, known: dict[str, Any], place: str) -> str:
    flag, separator, value = word.removeprefix("--").partition("=")
    if flag == "help":
        return word
    name = flag.replace("-", "_")
    found, is_negated = _resolve(name, known), False
    if found is None and name.rpartition(".")[2].startswith("no_"):  # --no-FIELD, of those that are true or false
        head, dot, last = name.rpartition(".")
        positive = _resolve(f"{head}{dot}{last.removeprefix('no_')}", known)
        is_negated = positive is not None and isinstance(known[positive], bool)
        found = positive if is_negated else None
    if found is None:
        near = difflib.get_close_matches(name, [*known, *(field.rpartition(".")[2] for field in known)], n=1)
        hint = f" (did you mean --{near[0]}?)" if near else ""
        raise ConfigError(f"recipe {place}: has no field {flag!r}{hint}; known: {', '.join(known)}")
    head, dot, last = found.rpartition(".")
    full = f"{head}{dot}{'no_' if is_negated else ''}{last}"
    return f"--{full.replace('_', '-')}{separator}{value}"


def _resolve(name: str, known: dict[str, Any]) -> str | None:
    """The full name of a field that is given whole or by its end; None when there is none. Raises ConfigError when several end so."""
    if name in known:
        return name
    if f"{_ENGINE}.{name}" in known:
        return f"{_ENGINE}.{name}"
    ends = [field for field in known if field.endswith(f".{name}")]
    if len(ends) > 1:
        raise ConfigError(f"--{name}: is the end of several fields: {', '.join(ends)}; must be one of them")
    return ends[0] if ends else None
