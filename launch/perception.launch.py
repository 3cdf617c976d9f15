"""All nodes of perception. `ros2 launch perception perception.launch.py --show-args` lists the arguments."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription

NODES = ("features", "object_pose")


def generate_launch_description() -> LaunchDescription:
    # A group of its own for each node: the default of params_file must not pass from one to the next.
    return LaunchDescription([GroupAction([IncludeLaunchDescription(str(Path(__file__).parent / f"{node}.launch.py"))]) for node in NODES])
