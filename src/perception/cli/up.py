"""Run the nodes in one process and one executor, without the `ros2` tool; nodes with equal `features` share one model (config/nodes/both.yaml)."""

from __future__ import annotations

from perception.nodes.up import UpArguments as Arguments
from perception.nodes.up import run_nodes

__all__ = ["Arguments", "run"]


def run(arguments: Arguments) -> int:
    """Blocks until Ctrl-C or SIGTERM; returns the exit code."""
    return run_nodes(arguments.params, arguments.nodes, arguments.namespaces, arguments.remap, autostart=arguments.autostart)
