"""What a user can do wrong, as one family of exceptions.

Every message says where, what was found and what is allowed. `assert` is kept for our own bugs.
"""

from __future__ import annotations

from collections.abc import Iterable


class PerceptionError(ValueError):
    """Base of all errors that a user can mend."""


class ConfigError(PerceptionError):
    """A setting is unknown, of the wrong type or out of range."""


class InputError(PerceptionError):
    """Data handed in (a message, an image, a file) cannot be used."""


class MissingDependencyError(PerceptionError):
    """An optional library is not installed; the message names what to install."""


class WeightsError(PerceptionError):
    """Weights are missing, damaged or belong to another architecture."""


class NodeError(PerceptionError):
    """A running node did not answer, refused what it was asked or ended by itself; the message has the tail of its log."""


def unknown_name(place: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a registry: lists the names that are."""
    return ConfigError(f"{place} = {name!r}: unknown; known: {', '.join(sorted(known))}")
