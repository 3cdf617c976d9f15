"""The `object_pose` node. `ros2 launch perception object_pose.launch.py --show-args` lists the arguments."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [IncludeLaunchDescription(str(Path(__file__).parent / "node.launch.py"), launch_arguments={"node": "object_pose"}.items())]
    )
