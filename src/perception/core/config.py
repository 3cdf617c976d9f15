"""One typed definition for each component; the same definition reads YAML, makes CLI flags and declares ROS parameters.

A config is a frozen dataclass that derives from `Checked`. Its leaves are what a ROS parameter can carry: bool, int, float,
str, `Literal` of strings and homogeneous tuples of these. A `Range` in the annotation gives bounds and unit; the string
literal under a field is its help text everywhere (`--help`, parameter descriptor, documentation).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from perception.core.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="Checked")


@dataclass(frozen=True)
class Range:
    """Closed bounds of a number, with its unit. `None` leaves a side open."""

    low: float | None = None
    high: float | None = None
    unit: str = ""

    def __contains__(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        bounds = f"[{'-inf' if self.low is None else f'{self.low:g}'}, {'inf' if self.high is None else f'{self.high:g}'}]"
        return f"{bounds} {self.unit}".strip()


@dataclass(frozen=True)
class Leaf:
    """One setting: dotted name, python type, default (None: required), bounds, choices and help text."""

    name: str
    type: Any
    default: Any
    range: Range | None
    choices: tuple[str, ...]
    help: str


class Checked:
    """Mixin for frozen config dataclasses: checks every field's type and range when an instance is made."""

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for leaf in own_leaves(kind):
            object.__setattr__(self, leaf.name, _checked_value(f"{kind.__name__}.{leaf.name}", leaf, getattr(self, leaf.name)))
        for name, cls in nested_configs(kind).items():
            value = getattr(self, name)
            if not isinstance(value, cls):
                raise ConfigError(f"{kind.__name__}.{name} = {value!r}: must be a {cls.__name__}")


def _split_annotation(hint: Any) -> tuple[Any, Range | None]:
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        return base, next((extra for extra in extras if isinstance(extra, Range)), None)
    return hint, None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@functools.cache
def field_help(cls: type) -> dict[str, str]:
    """Help text of each field: the string literal written under it."""
    import docstring_parser

    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            for parameter in docstring_parser.parse_from_object(base).params:
                texts[parameter.arg_name] = " ".join((parameter.description or "").split())
    return texts


@functools.cache
def nested_configs(cls: Any) -> dict[str, type[Checked]]:
    """Fields of `cls` that are configs themselves."""
    return {f.name: _split_annotation(_hints(cls)[f.name])[0] for f in fields(cls) if is_dataclass(_split_annotation(_hints(cls)[f.name])[0])}


@functools.cache
def own_leaves(cls: Any) -> tuple[Leaf, ...]:
    """The settings that `cls` itself holds, nested configs left out."""
    found = []
    for field in fields(cls):
        if field.name in nested_configs(cls):
            continue
        kind, bounds = _split_annotation(_hints(cls)[field.name])
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        found.append(Leaf(field.name, str if choices else kind, _default(field), bounds, choices, field_help(cls).get(field.name, "")))
    return tuple(found)


def leaves(cls: type, prefix: str = "", default: Checked | None = None) -> Iterator[Leaf]:
    """All settings of `cls` with dotted names, nested configs included, in the order of definition.

    default: an instance that has the defaults, where they are not those of the class (a config may hold another with defaults of its own).
    """
    own = {leaf.name: leaf for leaf in own_leaves(cls)}
    for field in fields(cls):
        value = _default(field) if default is None else getattr(default, field.name)
        if field.name in own:
            leaf = own[field.name]
            yield Leaf(prefix + leaf.name, leaf.type, value, leaf.range, leaf.choices, leaf.help)
        else:
            yield from leaves(nested_configs(cls)[field.name], f"{prefix}{field.name}.", value)


def _default(field: Field[Any]) -> Any:
    """Of a field; None where it has none."""
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None


def check_leaf(place: str, leaf: Leaf, value: Any) -> Any:
    """`value` converted to the type of one setting; ConfigError names `place`, the value and what is allowed."""
    return _checked_value(place, leaf, value)


def _checked_value(place: str, leaf: Leaf, value: Any) -> Any:
    """`value` converted to the leaf's type, or a ConfigError that names place, value and what is allowed."""
    if get_origin(leaf.type) is tuple:
        element, *rest = get_args(leaf.type)
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ConfigError(f"{place} = {value!r}: must be a list of {element.__name__}")
        values = tuple(_checked_scalar(f"{place}[{i}]", element, item) for i, item in enumerate(value))
        if rest and rest != [Ellipsis] and len(values) != 1 + len(rest):
            raise ConfigError(f"{place} = {list(values)!r}: must have {1 + len(rest)} values")
    else:
        value = _checked_scalar(place, leaf.type, value)
        values = (value,)
    for item in values:
        if leaf.choices and item not in leaf.choices:
            raise ConfigError(f"{place} = {item!r}: must be one of {', '.join(leaf.choices)}")
        if leaf.range is not None and item not in leaf.range:
            raise ConfigError(f"{place} = {item!r}: must lie in {leaf.range}")
    return values if get_origin(leaf.type) is tuple else value


def _checked_scalar(place: str, kind: Any, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, Path):
        value = str(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{place} = {value!r}: must be of type {kind.__name__}")
    if kind is float and math.isnan(value):
        raise ConfigError(f"{place} = nan: must be a number")
    return value


def from_mapping(cls: type[ConfigT], mapping: Mapping[str, Any], place: str = "", default: ConfigT | None = None) -> ConfigT:
    """Build `cls` from nested or dotted keys; unknown keys are errors that list the known ones.

    default: an instance that has what the keys do not say; without one the class's own defaults hold.
    """
    mapping = _nested(mapping)
    kind: Any = cls
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(mapping) - set(known))
    where = place or cls.__name__
    if unknown:
        raise ConfigError(f"{where}: unknown key(s) {unknown}; known: {known}")
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        nested: Any = nested_configs(kind).get(name)
        if nested is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}.{name} = {value!r}: must be a mapping with keys {[f.name for f in fields(nested)]}")
            held = getattr(default, name) if default is not None else _default(next(field for field in fields(kind) if field.name == name))
            values[name] = from_mapping(nested, value, f"{where}.{name}", held)
        else:
            leaf = next(leaf for leaf in own_leaves(kind) if leaf.name == name)
            values[name] = _checked_value(f"{where}.{name}", leaf, value)
    if default is not None:
        return replace(default, **values)  # type: ignore[type-var]
    required = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{where}: required key(s) {missing} missing; known: {known}")
    return cls(**values)


def _nested(mapping: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        head, _, rest = str(key).partition(".")
        inner = {rest: value} if rest else value
        before = result.get(head, {})
        if not isinstance(inner, Mapping):
            result[head] = inner
        elif isinstance(before, Mapping):
            result[head] = {**before, **inner}
        else:
            raise ConfigError(f"{key}: {head} = {before!r} is given as well: must be a mapping")
    return result


def to_mapping(config: Checked) -> dict[str, Any]:
    """Nested plain dict, ready for YAML or JSON."""
    return _plain(asdict(config))  # type: ignore[call-overload]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def load_yaml(cls: type[ConfigT], path: str | Path) -> ConfigT:
    """Read `cls` from a YAML file of nested keys."""
    try:
        mapping = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{path}: must hold a mapping, holds {type(mapping).__name__}")
    return from_mapping(cls, mapping, str(path))
