"""Nodes as processes of their own: command line, kill and restart, orderly end, several nodes in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tests.support.ros import FakeCamera, RosHarness

from perception.core.errors import ConfigError
from perception.nodes.processes import NodeProcess
from perception.nodes.up import run_nodes

pytestmark = pytest.mark.ros
FEATURES = "perception.nodes.features_node"
START_S = 60.0


def test_a_killed_node_that_is_started_again_goes_on(ros: RosHarness, tmp_path: Path) -> None:
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    autostart: true\n    image: {reliability: reliable}\n")
    arguments = ["-r", "__ns:=/camera1", "-r", "image:=/camera/image_raw"]
    camera, status = FakeCamera(ros), ros.collect(String, "/camera1/features/status")
    ros.node.destroy_publisher(camera.images)
    camera.images = ros.node.create_publisher(Image, "/camera/image_raw", 5)

    def send_until(num_received: int) -> None:
        def received() -> bool:
            camera.send()
            return len(status) >= num_received

        assert ros.wait(received, START_S), process.log_tail()

    with NodeProcess(FEATURES, tmp_path / "first.log", ros.environment, arguments=arguments, params_file=parameters) as process:
        send_until(2)
        os.kill(process.pid, signal.SIGKILL)
        assert ros.wait(lambda: process.exit_code == -signal.SIGKILL)
    num_before = len(status)
    with NodeProcess(FEATURES, tmp_path / "second.log", ros.environment, arguments=arguments, params_file=parameters) as process:
        send_until(num_before + 2)
        assert json.loads(status[-1].data)["stamp_ns"] > json.loads(status[0].data)["stamp_ns"]
        assert process.stop() == 0, process.log_tail()
        assert "terminate called" not in process.log_tail()


def test_sigterm_ends_nodes_in_one_process_in_order(ros: RosHarness, tmp_path: Path) -> None:
    camera, status = FakeCamera(ros, "/robot"), ros.collect(String, "/robot/features/status")
    command = [sys.executable, "-m", "perception.nodes.up", "--nodes", "features", "--namespaces", "/robot"]
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **ros.environment}, stdout=log, stderr=subprocess.STDOUT)

    def received() -> bool:
        camera.send()
        return len(status) > 2

    try:
        assert ros.wait(received, START_S)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    text = (tmp_path / "up.log").read_text()
    assert code == 0, text
    assert "terminate called" not in text
    assert "Traceback" not in text


def test_errors_of_the_arguments_come_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: no such file"):
        run_nodes(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="nodes = 'feature': unknown; known: features, object_pose"):
        run_nodes(None, ["feature"])
    with pytest.raises(ConfigError, match="remapping 'image=/x': must be <name>:=<other name>"):
        run_nodes(None, ["features"], remappings=["image=/x"])
