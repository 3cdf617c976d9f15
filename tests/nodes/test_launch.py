"""The launch files, where `launch` is installed (it is not on PyPI): arguments, and the command that each node is started with."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

launch = pytest.importorskip("launch")
launch_ros_actions = pytest.importorskip("launch_ros.actions")
pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
NODES = ("features", "object_pose")
ARGUMENTS = {"namespace", "params_file", "use_sim_time", "autostart", "log_level", "image_topic", "camera_info_topic"}
FILES = {"perception": NODES, "features": ("features",), "object_pose": ("object_pose",)}


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ament prefix that stands for an installation of the checkout."""
    marker = tmp_path / "share" / "ament_index" / "resource_index" / "packages" / "perception"
    marker.parent.mkdir(parents=True)
    marker.touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "perception").symlink_to(ROOT / "src" / "bin")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return tmp_path


def description_of(name: str) -> Any:
    source = launch.launch_description_sources.PythonLaunchDescriptionSource(str(ROOT / "launch" / f"{name}.launch.py"))
    return launch.LaunchDescription([launch.actions.IncludeLaunchDescription(source)])


def started_processes(name: str, arguments: dict[str, str]) -> list[Any]:
    """Details of the processes that a launch file would start, with every substitution made."""
    context = launch.LaunchContext()
    context.launch_configurations.update(arguments)
    found, queue = [], list(description_of(name).entities)
    while queue:
        entity = queue.pop(0)
        if isinstance(entity, launch_ros_actions.Node):
            entity._perform_substitutions(context)
            # What Node.execute adds before it hands over to the process.
            namespace = context.perform_substitution(launch.substitutions.LaunchConfiguration("namespace"))
            context.extend_locals({"ros_specific_arguments": {"ns": f"__ns:=/{namespace}"}})
            entity.prepare(context)
            found.append(entity.process_details)
        else:
            queue[:0] = entity.visit(context) or []
    return found


def parameters_of(command: list[str]) -> str:
    return "\n".join(Path(value).read_text() for option, value in pairwise(command) if option == "--params-file")


@pytest.mark.parametrize("name", FILES)
def test_arguments_are_those_of_navigation_stacks(name: str) -> None:
    shown = description_of(name).get_launch_arguments()
    assert {argument.name for argument in shown} == ARGUMENTS | {"python"}
    assert all(argument.description for argument in shown)
    assert all(argument.default_value is not None for argument in shown)


@pytest.mark.parametrize("name", FILES)
def test_defaults_start_each_node_with_its_own_parameters(name: str, prefix: Path) -> None:
    processes = started_processes(name, {})
    assert len(processes) == len(FILES[name])
    for node, details in zip(FILES[name], processes, strict=True):
        command = details["cmd"]
        assert command[:2] == [sys.executable, str(prefix / "lib" / "perception" / node)]
        assert command[command.index("--params-file") + 1] == str(ROOT / "config" / "nodes" / f"{node}.yaml")
        assert "autostart: true" in parameters_of(command)
        assert "use_sim_time: false" in parameters_of(command)
        assert "image:=image" in command
        assert "camera_info:=camera_info" in command
        assert details["env"]["FASTDDS_DEFAULT_PROFILES_FILE"] == str(ROOT / "config" / "fastdds" / "shared_memory.xml")


def test_arguments_reach_every_node(prefix: Path, tmp_path: Path) -> None:
    params_file = tmp_path / "mine.yaml"
    params_file.write_text("/**/features:\n  ros__parameters:\n    publish_stride_cells: 7\n")
    arguments = {
        **{"namespace": "left", "params_file": str(params_file), "use_sim_time": "true", "autostart": "false", "log_level": "debug"},
        **{"image_topic": "/camera/image_raw", "camera_info_topic": "/camera/camera_info", "python": "/opt/my env/bin/python"},
    }
    for details in started_processes("perception", arguments):
        command = details["cmd"]
        assert command[0] == "/opt/my env/bin/python"
        assert command[command.index("--log-level") + 1] == "debug"
        assert {"__ns:=/left", "image:=/camera/image_raw", "camera_info:=/camera/camera_info"} <= set(command)
        parameters = parameters_of(command)
        assert "publish_stride_cells: 7" in parameters
        assert "use_sim_time: true" in parameters
        assert "autostart: false" in parameters


def test_an_activated_environment_gives_the_interpreter(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/opt/robot")
    assert started_processes("features", {})[0]["cmd"][0] == os.path.join("/opt/robot", "bin", "python")


def test_a_profile_of_the_user_stays(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/etc/robot/dds.xml")
    assert started_processes("features", {})[0]["env"]["FASTDDS_DEFAULT_PROFILES_FILE"] == "/etc/robot/dds.xml"
