"""Several camera nodes in one executor of one process: the way to run them where `ros2` is not installed.

Nodes with equal feature settings share one model, and a frame that two of them want is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import tyro
from rclpy.parameter import Parameter

from perception.core.errors import ConfigError, unknown_name
from perception.nodes.base import CameraNode
from perception.nodes.spinning import spin

NODES = {"features": "perception.nodes.features_node:FeaturesNode", "object_pose": "perception.nodes.object_pose_node:ObjectPoseNode"}


@dataclass(frozen=True, kw_only=True)
class UpArguments:
    """Which nodes to run, and with what."""

    params: Path | None = None
    """YAML file of ROS parameters, as for `--ros-args --params-file`."""
    nodes: tuple[str, ...] = tuple(NODES)
    """Names of the nodes."""
    namespaces: tuple[str, ...] = ("",)
    """One set of nodes for each, such as /left /right; their topics are in the namespace too."""
    remap: tuple[str, ...] = ()
    """Topics under other names, such as image:=/camera/image_raw."""
    autostart: bool = True
    """Configure and activate the nodes at once; without, a lifecycle manager leads them."""


def node_class(name: str) -> type[CameraNode]:
    """The class of a node by its name; an unknown name lists the known ones."""
    if name not in NODES:
        raise unknown_name("nodes", name, NODES)
    module, _, attribute = NODES[name].partition(":")
    found: type[CameraNode] = getattr(import_module(module), attribute)
    return found


def run_nodes(
    params_file: str | Path | None = None,
    node_names: Sequence[str] = tuple(NODES),
    namespaces: Sequence[str] = ("",),
    remappings: Sequence[str] = (),
    *,
    autostart: bool = True,
    ros_arguments: Sequence[str] = (),
) -> int:
    """Run each named node once in each namespace until Ctrl-C or SIGTERM; returns the exit code. `remappings` are `from:=to`."""
    if params_file is not None and not Path(params_file).is_file():
        raise ConfigError(f"parameter file {params_file}: no such file")
    wrong = [rule for rule in remappings if ":=" not in rule]
    if wrong:
        raise ConfigError(f"remapping {wrong[0]!r}: must be <name>:=<other name>, such as image:=/camera/image_raw")
    classes = [node_class(name) for name in node_names]
    return spin(lambda: make_nodes(classes, namespaces, arguments_of(params_file, remappings), autostart=autostart), ["perception", *ros_arguments])


def arguments_of(params_file: str | Path | None, remappings: Sequence[str]) -> list[str]:
    """ROS arguments of one node."""
    arguments = [part for rule in remappings for part in ("-r", rule)]
    arguments += ["--params-file", str(params_file)] if params_file is not None else []
    return ["--ros-args", *arguments] if arguments else []


def make_nodes(
    classes: Sequence[Callable[..., CameraNode]], namespaces: Sequence[str], arguments: Sequence[str], *, autostart: bool = True
) -> list[CameraNode]:
    """One node of each class in each namespace; rclpy must be initialised."""
    overrides = [Parameter("autostart", value=True)] if autostart else []
    return [
        make(namespace=namespace or None, cli_args=list(arguments), parameter_overrides=overrides) for namespace in namespaces for make in classes
    ]


def main() -> int:
    """Command line: `python -m perception.nodes.up --params FILE`."""
    arguments = tyro.cli(UpArguments, description=__doc__)
    try:
        return run_nodes(arguments.params, arguments.nodes, arguments.namespaces, arguments.remap, autostart=arguments.autostart)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
