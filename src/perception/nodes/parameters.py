"""A `Checked` config as ROS parameters: one parameter for each leaf, with help, range and choices in its descriptor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, get_args, get_origin

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from perception.core.config import Checked, Leaf, check_leaf, from_mapping, leaves
from perception.core.errors import ConfigError

C = TypeVar("C", bound=Checked)

SYSTEM_PARAMETERS = ("use_sim_time", "start_type_description_service", "qos_overrides.")
"""Set by ROS itself on any node; never unknown."""
_ARRAY_TYPES = {
    bool: Parameter.Type.BOOL_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}
_MAX_FLOAT = 1.7e308
_MAX_INT = 2**63 - 1


def descriptor_of(leaf: Leaf, read_only: bool = False) -> ParameterDescriptor:
    """Help, range, choices and unit of a leaf. Typing is dynamic, so that `5` is taken for a float; the config itself checks the type."""
    constraints = [f"one of {', '.join(leaf.choices)}"] if leaf.choices else []
    constraints += [f"in {leaf.range}"] if leaf.range is not None else []
    descriptor = ParameterDescriptor(description=leaf.help, read_only=read_only, dynamic_typing=True, additional_constraints="; ".join(constraints))
    if leaf.range is None:
        return descriptor
    low, high = leaf.range.low, leaf.range.high
    if leaf.type is float:
        limits = (-_MAX_FLOAT if low is None else float(low), _MAX_FLOAT if high is None else float(high))
        descriptor.floating_point_range = [FloatingPointRange(from_value=limits[0], to_value=limits[1], step=0.0)]
    elif leaf.type is int:
        bounds = (-_MAX_INT if low is None else int(low), _MAX_INT if high is None else int(high))
        descriptor.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1], step=0)]
    return descriptor


class Parameters:
    """The parameters of one node, checked by the config classes they come from.

    A value from the command line or a parameter file that is wrong or unknown does not stop the constructor: `check` and `config` raise it as
    ConfigError, so that the node refuses to configure, and setting the parameter right mends it.
    """

    def __init__(self, node: Node, classes: Iterable[type[Checked]], *, running: tuple[str, ...] = (), read_only: tuple[str, ...] = ()) -> None:
        """running: names, or prefixes that end in a dot, of what may change at any time. The others change only while `locked` is False."""
        self._node, self._running = node, running
        self._classes = tuple(classes)
        self._leaves = {leaf.name: leaf for cls in self._classes for leaf in leaves(cls)}
        self._wrong: dict[str, ConfigError] = {}
        self.locked = False
        self.on_change: Callable[[], None] | None = None
        # The protected dict is the only way to see overrides that nobody declares: rclpy's own automatic declaration fails on an empty list.
        overrides: dict[str, Parameter] = node._parameter_overrides
        self._unknown = [name for name in overrides if name not in self._leaves and not _matches(name, SYSTEM_PARAMETERS)]
        for leaf in self._leaves.values():
            self._declare(leaf, overrides.get(leaf.name), leaf.name in read_only)
        node.add_on_set_parameters_callback(self.refuse)
        node.add_post_set_parameters_callback(self._changed)

    def _declare(self, leaf: Leaf, override: Parameter | None, read_only: bool) -> None:
        value = _plain(leaf, leaf.default)
        if override is not None:
            given = _plain(leaf, override.value)
            try:
                value = _plain(leaf, check_leaf(self._place(leaf), leaf, given))
            except ConfigError as error:
                self._wrong[leaf.name] = error
        # A leaf without default must be given; until it is, the parameter exists without a value.
        self._node.declare_parameter(leaf.name, value, descriptor_of(leaf, read_only), ignore_override=True)
        if value == []:
            self._node.set_parameters([self._typed(leaf, value)])

    def _place(self, leaf: Leaf) -> str:
        return f"{self._node.get_name()}.{leaf.name}"

    def _typed(self, leaf: Leaf, value: Any) -> Parameter:
        # rclpy takes an empty list for a byte array.
        return Parameter(leaf.name, _ARRAY_TYPES[get_args(leaf.type)[0]], value) if value == [] else Parameter(leaf.name, value=value)

    def values(self) -> dict[str, Any]:
        """Current value of every leaf, by dotted name; those without a value are left out."""
        found = {name: _plain(leaf, self._node.get_parameter_or(name).value) for name, leaf in self._leaves.items()}
        return {name: value for name, value in found.items() if value is not None}

    def check(self) -> None:
        """Raise ConfigError for what was given at the start and is unknown or wrong."""
        if self._unknown:
            raise ConfigError(
                f"unknown parameter(s) {', '.join(sorted(self._unknown))} of node {self._node.get_name()}; known: {', '.join(self._leaves)}"
            )
        for error in self._wrong.values():
            raise error

    def config(self, cls: type[C]) -> C:
        """The current values as a config; ConfigError says what is wrong with them."""
        names = {leaf.name for leaf in leaves(cls)}
        return from_mapping(cls, {name: value for name, value in self.values().items() if name in names}, self._node.get_name())

    def refuse(self, changes: Iterable[Parameter]) -> SetParametersResult:
        """Whether the changes may be made, with the config's own words when not."""
        ours = [change for change in changes if change.name in self._leaves]
        held = [change.name for change in ours if self.locked and not _matches(change.name, self._running)]
        if held:
            reason = f"{', '.join(held)}: takes effect when the node is configured; deactivate and clean it up first"
            return SetParametersResult(successful=False, reason=reason)
        values = self.values()
        try:
            for change in ours:
                leaf = self._leaves[change.name]
                if change.type_ == Parameter.Type.NOT_SET and get_origin(leaf.type) is not tuple:
                    raise ConfigError(f"{self._place(leaf)}: cannot be unset")
                values[change.name] = check_leaf(self._place(leaf), leaf, _plain(leaf, change.value))
            for cls in self._classes if self.locked else ():  # while it is not, several parameters may have to change one by one
                from_mapping(cls, {leaf.name: values[leaf.name] for leaf in leaves(cls) if leaf.name in values}, self._node.get_name())
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _changed(self, changes: Iterable[Parameter]) -> None:
        for change in changes:
            self._wrong.pop(change.name, None)
        if self.on_change is not None:
            self.on_change()


def _matches(name: str, names: tuple[str, ...]) -> bool:
    return any(name == known or (known.endswith(".") and name.startswith(known)) for known in names)


def _plain(leaf: Leaf, value: Any) -> Any:
    """What ROS can carry, back and forth: tuples are lists, and an empty list in a parameter file arrives as no value at all."""
    if get_origin(leaf.type) is not tuple:
        return value
    return [] if value is None or value == b"" else list(value)
