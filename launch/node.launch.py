"""What the launch files here share: one node, whose name they set as launch configuration `node`, with its arguments. Not started on its own."""

import os
import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).parent.parent / "config"
# torch and its kin come from pip: an activated environment has them even where `ros2` itself runs on the system's Python. An environment that is not
# activated is found through the interpreter that runs `ros2`.
PYTHON = str(Path(os.environ["VIRTUAL_ENV"]) / "bin" / "python") if "VIRTUAL_ENV" in os.environ else sys.executable


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="namespace of the node; one for each camera"),
            DeclareLaunchArgument(
                "params_file", default_value=[f"{CONFIG / 'nodes'}/", LaunchConfiguration("node"), ".yaml"], description="YAML file of parameters"
            ),
            DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"], description="take the time from /clock"),
            DeclareLaunchArgument(
                "autostart", default_value="true", choices=["true", "false"], description="configure and activate the node by itself"
            ),
            DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
            DeclareLaunchArgument("image_topic", default_value="image", description="topic of the camera images"),
            DeclareLaunchArgument("camera_info_topic", default_value="camera_info", description="topic of the camera calibration"),
            DeclareLaunchArgument("python", default_value=PYTHON, description="interpreter that has perception and its libraries"),
            Node(
                package="perception",
                executable=LaunchConfiguration("node"),
                exec_name=LaunchConfiguration("node"),
                namespace=LaunchConfiguration("namespace"),
                prefix=["'", LaunchConfiguration("python"), "'"],
                output="screen",
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                        # The node brings itself up, so a respawned one does too, and no transition event can be missed.
                        "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                    },
                ],
                remappings=[("image", LaunchConfiguration("image_topic")), ("camera_info", LaunchConfiguration("camera_info_topic"))],
                arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
                # A profile that the user has set stays.
                additional_env={
                    "FASTDDS_DEFAULT_PROFILES_FILE": EnvironmentVariable(
                        "FASTDDS_DEFAULT_PROFILES_FILE", default_value=str(CONFIG / "fastdds" / "shared_memory.xml")
                    )
                },
            ),
        ]
    )
