"""Nodes as processes and the lifecycle client, against a small lifecycle node."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from perception.core.errors import NodeError
from perception.nodes.lifecycle_client import LifecycleClient, call_service
from perception.nodes.processes import NodeProcess, reserved_domain, ros_environment
from perception.nodes.session import RosSession

pytestmark = pytest.mark.ros
ECHO = "tests.support.echo_node"


@pytest.fixture
def session() -> Iterator[RosSession]:
    with reserved_domain() as domain, RosSession("tester", ros_environment(domain)) as session:
        yield session


def start_echo(session: RosSession, folder: Path, *arguments: str) -> NodeProcess:
    return NodeProcess(ECHO, folder / "echo.log", session.environment, arguments=arguments)


def test_lifecycle_goes_all_the_way_and_the_node_ends_on_sigint(session: RosSession, tmp_path: Path) -> None:
    with start_echo(session, tmp_path) as process:
        client = LifecycleClient(session.node, "echo", timeout_s=20, while_waiting=process.check)
        seen = [client.state()]
        for change in (client.configure, client.activate, client.deactivate, client.cleanup, client.shutdown):
            change()
            seen.append(client.state())
        assert seen == ["unconfigured", "inactive", "active", "inactive", "unconfigured", "finalized"]
        with pytest.raises(NodeError, match="cannot shut down from state 'finalized'"):
            client.shutdown()
        assert process.stop() == 0
    assert "asked to end" in process.log_tail()
    process.check()  # an end that was asked for is no error


def test_a_refused_transition_names_node_transition_and_state(session: RosSession, tmp_path: Path) -> None:
    with start_echo(session, tmp_path, "-p", "refuse_configure:=true") as process:
        client = LifecycleClient(session.node, "/echo", timeout_s=20, while_waiting=process.check)
        with pytest.raises(NodeError, match=r"/echo: transition 'configure' was refused or failed \(the node is now 'unconfigured'\)"):
            client.configure()
        with pytest.raises(NodeError, match="'activate'"):
            client.activate()
    assert "told to refuse" in process.log_tail()


def test_a_node_that_cannot_start_is_noticed_at_once_with_its_log(session: RosSession, tmp_path: Path) -> None:
    with NodeProcess("tests.support.no_such_node", tmp_path / "log", session.environment) as process:
        begin = time.monotonic()
        client = LifecycleClient(session.node, "no_such_node", timeout_s=60, while_waiting=process.check)
        with pytest.raises(NodeError, match=r"ended by itself with exit code 1(.|\n)*No module named tests.support.no_such_node"):
            client.configure()
        assert time.monotonic() - begin < 10


def test_a_killed_node_is_named_with_the_signal(session: RosSession, tmp_path: Path) -> None:
    with start_echo(session, tmp_path) as process:
        client = LifecycleClient(session.node, "echo", timeout_s=20, while_waiting=process.check)
        client.configure()
        process._process.send_signal(signal.SIGKILL)
        with pytest.raises(NodeError, match="ended by SIGKILL"):
            client.activate()
        assert process.stop() == -signal.SIGKILL


def test_silence_ends_in_a_time_out(session: RosSession) -> None:
    client = LifecycleClient(session.node, "nobody", timeout_s=0.2)
    with pytest.raises(NodeError, match=r"/nobody/change_state did not appear within 0.2 s"):
        client.configure()
    from std_srvs.srv import Trigger

    service = session.node.create_service(Trigger, "/deaf", lambda request, response: time.sleep(1.0) or response)
    with pytest.raises(NodeError, match=r"/deaf did not answer within 0.2 s"):
        call_service(session.node.create_client(Trigger, "/deaf"), Trigger.Request(), 0.2)
    time.sleep(1.0)
    session.node.destroy_service(service)


def test_a_process_that_ignores_sigint_is_ended_anyway(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    with NodeProcess("stubborn", tmp_path / "log", {"PYTHONPATH": str(tmp_path)}) as process:
        while "up" not in process.log_tail():
            time.sleep(0.02)
        assert process.stop(timeout_s=0.3) == -signal.SIGTERM


def test_domains_are_not_given_out_twice() -> None:
    with reserved_domain() as first, reserved_domain() as second, reserved_domain(7) as chosen:
        assert first != second
        assert 1 <= first <= 101
        assert 1 <= second <= 101
        assert chosen == 7


def test_the_environment_of_the_caller_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    with reserved_domain() as domain, RosSession("tester", ros_environment(domain)):
        assert os.environ["ROS_DOMAIN_ID"] == str(domain)
        assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_DOMAIN_ID" not in os.environ
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
