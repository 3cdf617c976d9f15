"""The `features` node. `ros2 launch perception features.launch.py --show-args` lists the arguments."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([IncludeLaunchDescription(str(Path(__file__).parent / "node.launch.py"), launch_arguments={"node": "features"}.items())])
